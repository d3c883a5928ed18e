CREATE SCHEMA catalog;

CREATE TABLE catalog.products (
    id uuid PRIMARY KEY,
    sku text NOT NULL UNIQUE,
    title text NOT NULL,
    description text NOT NULL,
    brand text,
    tags text[] NOT NULL DEFAULT '{}',
    attributes jsonb NOT NULL DEFAULT '{}',
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE catalog.prices (
    product_id uuid PRIMARY KEY REFERENCES catalog.products ON DELETE CASCADE,
    currency char(3) NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- The read model: one row is one search document, written in the transaction of whatever changes it.
CREATE TABLE catalog.product_documents (
    product_id uuid PRIMARY KEY,
    doc jsonb NOT NULL,
    source_version bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
-- Documents are stored out of line; without the whole old row an update would leave unchanged ones out of the stream.
ALTER TABLE catalog.product_documents REPLICA IDENTITY FULL;
