CREATE TABLE orders (
  id TEXT NOT NULL PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id),
  total_cents INTEGER NOT NULL CHECK (total_cents >= 0),
  created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX orders_by_user ON orders (user_id, created_at, id);

-- The key begins as orders_by_user does, so that the items of a page of a user's orders are one range.
CREATE TABLE order_items (
  user_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  order_id TEXT NOT NULL,
  sku TEXT NOT NULL,
  quantity INTEGER NOT NULL CHECK (quantity BETWEEN 1 AND 10000),
  price_cents INTEGER NOT NULL CHECK (price_cents BETWEEN 0 AND 100000000),
  PRIMARY KEY (user_id, created_at, order_id, sku),
  FOREIGN KEY (user_id, created_at, order_id) REFERENCES orders (user_id, created_at, id)
) STRICT, WITHOUT ROWID;
