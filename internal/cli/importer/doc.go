// Package importer runs the statements of an SQL dump against a database in batches, so that a dump of any size goes
// through in bounded memory and an import that was cut off goes on where it was.
//
// # Resuming
//
// A batch is one transaction under an idempotency key made of the database's name and all statements up to the batch's
// end. Running the same file again makes the same batches and the same keys: the primary answers those it has already
// done without doing them again. A file changed behind the point reached (the repair of a bad statement) resumes as well;
// one changed before that point does not, nor does another batch size.
//
// The primary forgets keys in time. If it has forgotten the first batches but not the later ones, the run stops with
// [ErrForgotten] as soon as that shows.
package importer
