import { create } from "@bufbuild/protobuf";
import { NullValue } from "@bufbuild/protobuf/wkt";
import { ValueSchema, type Column, type Row, type Value } from "./gen/nearside/data/v1/value_pb.js";

/** A value of SQL as JavaScript has it. INTEGER is a bigint: it may be larger than a number holds exactly. */
export type Plain = null | bigint | number | string | Uint8Array;

/**
 * A value for a parameter or a key. A whole number is an INTEGER, another one a REAL; a column of another type converts it, as
 * SQLite does.
 */
export function toValue(plain: Plain | boolean): Value {
  switch (typeof plain) {
    case "bigint":
      if (BigInt.asIntN(64, plain) !== plain) {
        throw new RangeError(`${plain} does not fit into an INTEGER of 64 bits`);
      }
      return create(ValueSchema, { kind: { case: "integer", value: plain } });
    case "number":
      return Number.isSafeInteger(plain) && !Object.is(plain, -0)
        ? create(ValueSchema, { kind: { case: "integer", value: BigInt(plain) } })
        : create(ValueSchema, { kind: { case: "real", value: plain } });
    case "string":
      return create(ValueSchema, { kind: { case: "text", value: plain } });
    case "boolean":
      return create(ValueSchema, { kind: { case: "integer", value: plain ? 1n : 0n } });
    default:
      if (plain === null) {
        return create(ValueSchema, { kind: { case: "null", value: NullValue.NULL_VALUE } });
      }
      if (tagOf(plain) !== "[object Uint8Array]") {
        throw new TypeError(`SQL has no value for ${tagOf(plain)}`);
      }
      return create(ValueSchema, { kind: { case: "blob", value: plain } });
  }
}

/** What a value is, also if it comes from another frame, whose classes are others. */
function tagOf(value: unknown): string {
  return Object.prototype.toString.call(value);
}

/** The plain value. TEXT that is not valid UTF-8 is bytes. */
export function fromValue(value: Value | undefined): Plain {
  switch (value?.kind.case) {
    case "integer":
    case "real":
    case "text":
    case "blob":
    case "textBytes":
      return value.kind.value;
    default:
      return null;
  }
}

/** A row as an object: its columns' values by their names, of columns with the same name the last. */
export function rowObject(columns: readonly Column[], row: Row): Record<string, Plain> {
  // fromEntries, not assignment: a column may be called __proto__.
  return Object.fromEntries(columns.map((column, i) => [column.name, fromValue(row.values[i])]));
}

/** The rows of a result as objects. */
export function rowObjects(result: { columns: readonly Column[]; rows: readonly Row[] } | undefined): Record<string, Plain>[] {
  return result === undefined ? [] : result.rows.map((row) => rowObject(result.columns, row));
}
