//! What goes to standard output: a table for people, tab-separated lines for programs, or JSON or YAML.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// How lists are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns under a header.
    Table,
    /// One line an item, its fields separated by tabs, without a header.
    Plain,
    /// One JSON value.
    Json,
    /// One YAML document.
    Yaml,
}

impl Format {
    /// The wish of the user, else a table on a terminal and plain lines in a pipe.
    pub(crate) fn chosen(wish: Option<Self>) -> Self {
        let usual = if io::stdout().is_terminal() { Self::Table } else { Self::Plain };
        wish.unwrap_or(usual)
    }

    /// Prints a list. JSON has every field of an item, the others have the columns of `row`.
    pub(crate) fn list<T: Serialize>(
        self,
        header: &[&str],
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Json | Self::Yaml => self.value(&items),
            Self::Plain => Ok(plain(items.iter().map(row))?),
            Self::Table => Ok(table(header, items.iter().map(row))?),
        }
    }

    /// Whether a value is printed whole, field by field, for programs.
    pub(crate) fn is_structured(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }

    /// Prints one value as YAML, or else as JSON.
    pub(crate) fn value(self, value: &impl Serialize) -> anyhow::Result<()> {
        if self == Self::Yaml {
            let text = serde_saphyr::to_string(value)?;
            return Ok(writeln!(io::stdout().lock(), "{}", text.trim_end())?);
        }
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, value)?;
        Ok(writeln!(out)?)
    }
}

/// Prints the lines of a plan, perhaps in the colours of what they do.
pub(crate) fn changes(changes: &[String], coloured: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for change in changes {
        let colour = match change.as_bytes().first() {
            Some(b'+') => "32",
            Some(b'-') => "31",
            _ => "33",
        };
        if coloured {
            writeln!(out, "\u{1b}[{colour}m{}\u{1b}[0m", printable(change))?;
        } else {
            writeln!(out, "{}", printable(change))?;
        }
    }
    Ok(())
}

/// Prints facts about one thing, a line each: aligned for people, with a tab for programs.
pub(crate) fn facts(format: Format, facts: &[(&str, String)]) -> io::Result<()> {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = io::stdout().lock();
    for (name, value) in facts {
        let value = printable(value);
        match format {
            Format::Plain => writeln!(out, "{name}\t{value}")?,
            _ => writeln!(out, "{name:width$}  {value}")?,
        }
    }
    Ok(())
}

/// Prints a table with aligned columns.
pub(crate) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table.add_rows(rows.map(|row| row.iter().map(|cell| printable(cell)).collect::<Vec<_>>()));
    writeln!(io::stdout().lock(), "{}", table.trim_fmt())
}

/// Prints lines with tabs between their fields.
pub(crate) fn plain(rows: impl Iterator<Item = Vec<String>>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| printable(cell)).collect();
        writeln!(out, "{}", cells.join("\t"))?;
    }
    Ok(())
}

/// Text from a store or a record must not steer a terminal or break a line in two.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An error and its causes in one line each. Some libraries repeat the cause in their own words; what was said
/// already is left out.
pub(crate) fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !lines
            .last()
            .is_some_and(|said| said.ends_with(&cause) || said.contains(&format!("{cause} ")))
        {
            lines.push(cause);
        }
    }
    lines
}

/// A number of things, with its noun.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A number of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            let digits = usize::from(unit != "B" && size < 100.0);
            return format!("{size:.digits$} {unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1023, 1024, 150 << 20, 3 << 30, 5 << 40].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "150 MiB", "3.0 GiB", "5.0 TiB"]);
    }

    #[test]
    fn a_cause_that_was_said_already_is_not_said_again() {
        let error = anyhow::anyhow!("DnsFailure")
            .context("metadata fetch failed: DnsFailure (no such host)")
            .context("Kafka did not answer");
        assert_eq!(
            causes(&error),
            ["Kafka did not answer", "metadata fetch failed: DnsFailure (no such host)"]
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\tb\u{1b}[31m\n"), "a b [31m ");
    }
}
