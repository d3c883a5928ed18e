//! What a mapping may hold, said once.
//!
//! ```text
//!  Shape ──┬──▶ JSON Schema, for editors
//!          ├──▶ reference page, for people
//!          └──▶ Section::finish_as: whoever reads a key that is not in the shape is stopped in a debug build
//! ```

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// A mapping with known keys.
#[derive(Debug)]
pub struct Shape {
    /// What it is, in a sentence.
    pub about: &'static str,
    /// Its keys, in the order in which people write them.
    pub fields: &'static [Field],
}

/// One key.
#[derive(Debug)]
pub struct Field {
    /// The key.
    pub key: &'static str,
    /// What its value looks like.
    pub form: Form,
    /// Whether it must be there.
    pub need: Need,
    /// What it means.
    pub about: &'static str,
}

/// Whether a key must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It must.
    Required,
    /// It may be left out, and this stands in for it.
    Default(&'static str),
    /// It may be left out.
    Optional,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Exactly this text.
    Only(&'static str),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// Any text; the other text says which, such as `schema.table`.
    Text(&'static str),
    /// A whole number between two, both included.
    Whole(u64, u64),
    /// `true` or `false`.
    Truth,
    /// A number of bytes, such as `64MiB`.
    Bytes,
    /// A length of time, such as `60s`.
    Span,
    /// A list of texts.
    Texts(&'static str),
    /// Free keys with texts.
    Free(&'static str),
    /// A mapping with known keys.
    Section(&'static Shape),
}

impl Field {
    /// A key that must be there.
    pub const fn required(key: &'static str, form: Form, about: &'static str) -> Self {
        Self { key, form, need: Need::Required, about }
    }

    /// A key that may be left out, with what stands in for it.
    pub const fn or(
        key: &'static str,
        form: Form,
        default: &'static str,
        about: &'static str,
    ) -> Self {
        Self { key, form, need: Need::Default(default), about }
    }

    /// A key that may be left out.
    pub const fn optional(key: &'static str, form: Form, about: &'static str) -> Self {
        Self { key, form, need: Need::Optional, about }
    }
}

impl Shape {
    /// Whether it has a key.
    pub fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|field| field.key == key)
    }

    /// The JSON Schema (2020-12) of the mapping.
    pub fn json_schema(&self) -> Value {
        let properties: Map<String, Value> =
            self.fields.iter().map(|field| (field.key.to_owned(), field.json_schema())).collect();
        let required = self.fields.iter().filter(|field| field.need == Need::Required);
        let required: Vec<&str> = required.map(|field| field.key).collect();
        json!({
            "type": "object",
            "description": self.about,
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    }

    /// A table of all keys below `path` in Markdown.
    pub fn reference(&self, path: &str) -> String {
        let mut page =
            String::from("| Key | Value | Default | Meaning |\n| --- | --- | --- | --- |\n");
        self.rows(path, &mut page);
        page
    }

    fn rows(&self, path: &str, page: &mut String) {
        for Field { key, form, need, about } in self.fields {
            let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            let default = match need {
                Need::Required => "required".to_owned(),
                Need::Default(default) => format!("`{default}`"),
                Need::Optional => String::new(),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(page, "| `{path}` | {} | {default} | {about} |", form.words());
            if let Form::Section(shape) = form {
                shape.rows(&path, page);
            }
        }
    }
}

impl Field {
    fn json_schema(&self) -> Value {
        let mut schema = match self.form {
            Form::Only(text) => json!({ "const": text }),
            Form::OneOf(texts) => json!({ "enum": texts }),
            Form::Text(_) | Form::Span => json!({ "type": "string" }),
            // Also as text, so that a `${VARIABLE}` may stand in for it.
            Form::Whole(least, most) => {
                json!({ "type": ["integer", "string"], "minimum": least, "maximum": most })
            }
            Form::Truth => json!({ "type": ["boolean", "string"] }),
            Form::Bytes => json!({ "type": ["integer", "string"] }),
            Form::Texts(_) => json!({ "type": "array", "items": { "type": "string" } }),
            Form::Free(_) => json!({
                "type": "object",
                "additionalProperties": { "type": ["string", "number", "boolean"] },
            }),
            Form::Section(shape) => return shape.json_schema(),
        };
        schema["description"] = self.about.into();
        if let Need::Default(default) = self.need {
            schema["default"] = default.into();
        }
        schema
    }
}

impl Form {
    fn words(self) -> String {
        match self {
            Self::Only(text) => format!("`{text}`"),
            Self::OneOf(texts) => {
                texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(" or ")
            }
            Self::Text(what) | Self::Texts(what) | Self::Free(what) => what.to_owned(),
            Self::Whole(least, most) => format!("{least} to {most}"),
            Self::Truth => "`true` or `false`".to_owned(),
            Self::Bytes => "bytes, such as `64MiB`".to_owned(),
            Self::Span => "time, such as `500ms` or `60s`".to_owned(),
            Self::Section(_) => "a mapping".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static INNER: Shape = Shape {
        about: "inner",
        fields: &[Field::or("size", Form::Bytes, "64MiB", "how large it is")],
    };
    static OUTER: Shape = Shape {
        about: "outer",
        fields: &[
            Field::required("name", Form::Text("a name"), "its name"),
            Field::optional("inner", Form::Section(&INNER), "more"),
        ],
    };

    #[test]
    fn a_shape_is_a_schema_and_a_page() {
        let schema = OUTER.json_schema();
        assert_eq!(schema["required"], json!(["name"]));
        assert_eq!(schema["properties"]["inner"]["properties"]["size"]["default"], "64MiB");
        assert_eq!(schema["additionalProperties"], false);
        let page = OUTER.reference("");
        assert!(page.contains("| `name` | a name | required | its name |"), "{page}");
        assert!(page.contains("| `inner.size` | bytes, such as `64MiB` | `64MiB` |"), "{page}");
    }
}
