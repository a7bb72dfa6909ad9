//! Tables for people: columns aligned, as narrow as they can be.

/// A table that is printed with its columns aligned.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these heads; a head that starts with `>` aligns its column to the right.
    pub fn new<S: AsRef<str>>(heads: &[S]) -> Table {
        Table { rows: vec![heads.iter().map(|h| h.as_ref().to_owned()).collect()] }
    }

    /// Adds a row. Control characters are shown as `?`: some of the words are machines' own.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let clean = |s: S| s.as_ref().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// Whether it has a head only.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// The table as text, each line ended; two spaces between columns, none at the end of a line.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let right: Vec<bool> =
            self.rows.first().map(|h| h.iter().map(|c| c.starts_with('>')).collect()).unwrap_or_default();
        let shown = |i: usize, cell: &str| {
            if i == 0 { cell.trim_start_matches('>').to_owned() } else { cell.to_owned() }
        };
        let width = |column: usize| {
            let cells = self.rows.iter().enumerate();
            cells.filter_map(|(i, r)| r.get(column).map(|c| shown(i, c).chars().count())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, width), column) in row.iter().zip(&widths).zip(0..) {
                let cell = shown(i, cell);
                if column > 0 {
                    line.push_str("  ");
                }
                if right.get(column).copied().unwrap_or(false) {
                    line.push_str(&format!("{cell:>width$}"));
                } else {
                    line.push_str(&format!("{cell:<width$}"));
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_columns_and_leaves_no_blanks_behind() {
        let mut table = Table::new(&["MAC", ">SECONDS", "NOTE"]);
        table.row(["52:54:00:00:00:01", "1.5", ""]);
        table.row(["x", "120.0", "two\nlines"]);
        assert_eq!(
            table.render(),
            "MAC                SECONDS  NOTE\n52:54:00:00:00:01      1.5\nx                    120.0  two?lines\n"
        );
    }
}
