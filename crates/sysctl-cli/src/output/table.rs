//! Tables: with lines around, without, and as CSV.

use unicode_width::UnicodeWidthStr;

use super::escape;

/// What stands in one field: a line, or several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cell(Vec<String>);

impl<T: ToString + ?Sized> From<&T> for Cell {
    fn from(text: &T) -> Cell {
        Cell(vec![text.to_string()])
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell(vec![text])
    }
}

impl From<Vec<String>> for Cell {
    fn from(lines: Vec<String>) -> Cell {
        Cell(lines)
    }
}

/// Rows under headings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(headings: impl Into<Vec<&'static str>>) -> Table {
        Table { headings: headings.into(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    /// The same cells, with one line each where `joiner` says how, and safe to print.
    fn printable(&self, joiner: Option<&str>) -> Vec<Vec<Vec<String>>> {
        let cell = |cell: &Cell| {
            let lines: Vec<String> = cell.0.iter().map(|line| escape::inline(line).into_owned()).collect();
            match joiner {
                Some(joiner) => vec![lines.join(joiner)],
                None if lines.is_empty() => vec![String::new()],
                None => lines,
            }
        };
        self.rows.iter().map(|row| row.iter().map(cell).collect()).collect()
    }

    fn widths(&self, rows: &[Vec<Vec<String>>]) -> Vec<usize> {
        let mut widths: Vec<usize> = self.headings.iter().map(|heading| heading.width()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.iter().map(|line| line.width()).fold(*width, usize::max);
            }
        }
        widths
    }

    /// With lines around.
    pub(crate) fn boxed(&self) -> String {
        let rows = self.printable(None);
        let widths = self.widths(&rows);
        let rule = widths.iter().fold("+".to_owned(), |rule, width| rule + &"-".repeat(width + 2) + "+") + "\n";
        let mut text = rule.clone();
        text.push_str(&line(&widths, self.headings.iter().copied(), "| ", " | ", " |"));
        text.push_str(&rule);
        for row in &rows {
            let height = row.iter().map(Vec::len).max().unwrap_or(1);
            for at in 0..height {
                let cells = row.iter().map(|cell| cell.get(at).map_or("", String::as_str));
                text.push_str(&line(&widths, cells, "| ", " | ", " |"));
            }
            text.push_str(&rule);
        }
        text
    }

    /// One line per row.
    pub(crate) fn compact(&self) -> String {
        let rows = self.printable(Some(","));
        let widths = self.widths(&rows);
        let mut text = line(&widths, self.headings.iter().copied(), "", "  ", "");
        for row in &rows {
            text.push_str(&line(&widths, row.iter().map(|cell| cell[0].as_str()), "", "  ", ""));
        }
        text
    }

    /// Values separated by commas (RFC 4180, with bare line feeds), without headings.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| quote(&cell.0.join("\n"))).collect();
            text.push_str(&cells.join(","));
            text.push('\n');
        }
        text
    }
}

fn line<'a>(
    widths: &[usize],
    cells: impl Iterator<Item = &'a str>,
    before: &str,
    between: &str,
    after: &str,
) -> String {
    let padded = widths
        .iter()
        .zip(cells)
        .map(|(width, cell)| format!("{cell}{}", " ".repeat(width.saturating_sub(cell.width()))));
    let line = format!("{before}{}{after}", padded.collect::<Vec<_>>().join(between));
    format!("{}\n", line.trim_end())
}

fn quote(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["NAME", "IPV4"]);
        table.row([Cell::from("web1"), vec!["10.0.0.2 (eth0)".to_owned(), "10.1.0.2 (eth1)".to_owned()].into()]);
        table.row([Cell::from("漢\u{1b}"), Cell::default()]);
        table
    }

    #[test]
    fn a_boxed_table_lines_up_with_wide_and_hidden_characters() {
        let expected = "\
+----------+-----------------+
| NAME     | IPV4            |
+----------+-----------------+
| web1     | 10.0.0.2 (eth0) |
|          | 10.1.0.2 (eth1) |
+----------+-----------------+
| 漢\\u{1b} |                 |
+----------+-----------------+
";
        assert_eq!(table().boxed(), expected);
        assert_eq!(Table::new(["A", "B"]).boxed(), "+---+---+\n| A | B |\n+---+---+\n");
    }

    #[test]
    fn a_compact_table_has_one_line_per_row() {
        let expected = "NAME      IPV4\nweb1      10.0.0.2 (eth0),10.1.0.2 (eth1)\n漢\\u{1b}\n";
        assert_eq!(table().compact(), expected);
    }

    #[test]
    fn csv_quotes_what_has_to_be_quoted() {
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::from("a,\"b\""), Cell::from(vec!["1".to_owned(), "2".to_owned()])]);
        table.row([Cell::from("x"), Cell::from("")]);
        assert_eq!(table.csv(), "\"a,\"\"b\"\"\",\"1\n2\"\nx,\n");
    }
}
