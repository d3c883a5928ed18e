CREATE SCHEMA inventory;

CREATE TABLE inventory.warehouses (
    id smallint PRIMARY KEY,
    code text NOT NULL UNIQUE,
    country char(2) NOT NULL
);
INSERT INTO inventory.warehouses VALUES (1, 'north', 'NO'), (2, 'south', 'PT');

CREATE TABLE inventory.stock (
    product_id uuid NOT NULL,
    warehouse_id smallint NOT NULL REFERENCES inventory.warehouses,
    on_hand integer NOT NULL CHECK (on_hand >= 0),
    reserved integer NOT NULL DEFAULT 0 CHECK (reserved BETWEEN 0 AND on_hand),
    version bigint NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (product_id, warehouse_id)
);
