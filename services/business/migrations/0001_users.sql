-- Times are nanoseconds since 1970 by the primary's clock.
CREATE TABLE users (
  id TEXT NOT NULL PRIMARY KEY,
  email TEXT NOT NULL COLLATE NOCASE UNIQUE,
  name TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT;

-- What was done to users, whoever did it: the triggers write it in the transaction of the change.
CREATE TABLE user_audit (
  id INTEGER PRIMARY KEY,
  user_id TEXT NOT NULL, -- no reference: the entries outlive the user
  action TEXT NOT NULL CHECK (action IN ('create', 'update', 'delete')),
  at INTEGER NOT NULL,
  detail TEXT NOT NULL -- JSON: email and name after the change, before a delete
) STRICT;
CREATE INDEX user_audit_by_user ON user_audit (user_id, id);

CREATE TRIGGER users_created AFTER INSERT ON users BEGIN
  INSERT INTO user_audit (user_id, action, at, detail)
  VALUES (new.id, 'create', new.created_at, json_object('email', new.email, 'name', new.name));
END;
CREATE TRIGGER users_updated AFTER UPDATE OF email, name ON users BEGIN
  INSERT INTO user_audit (user_id, action, at, detail)
  VALUES (new.id, 'update', CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000000,
    json_object('email', new.email, 'name', new.name));
END;
CREATE TRIGGER users_deleted AFTER DELETE ON users BEGIN
  INSERT INTO user_audit (user_id, action, at, detail)
  VALUES (old.id, 'delete', CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000000,
    json_object('email', old.email, 'name', old.name));
END;
