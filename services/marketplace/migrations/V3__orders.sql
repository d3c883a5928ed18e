CREATE SCHEMA orders;

CREATE TABLE orders.orders (
    id uuid PRIMARY KEY,
    order_no bigint GENERATED ALWAYS AS IDENTITY,
    customer_id uuid NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'cancelled')),
    cancel_reason text,
    currency char(3) NOT NULL,
    total_minor bigint NOT NULL CHECK (total_minor > 0),
    placed_at timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz,
    version bigint NOT NULL DEFAULT 1
);

CREATE TABLE orders.order_items (
    order_id uuid NOT NULL REFERENCES orders.orders,
    line_no smallint NOT NULL,
    product_id uuid NOT NULL,
    sku text NOT NULL,
    title text NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    unit_price_minor bigint NOT NULL CHECK (unit_price_minor > 0),
    PRIMARY KEY (order_id, line_no)
);

-- What a command with an idempotency key answered, so that a repeat answers the same and does nothing.
CREATE TABLE orders.http_idempotency (
    key text PRIMARY KEY,
    order_id uuid NOT NULL REFERENCES orders.orders,
    created_at timestamptz NOT NULL DEFAULT now()
);
