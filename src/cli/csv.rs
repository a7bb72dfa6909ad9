//! CSV (RFC 4180) with the line of each record: commas, double quotes around what has commas, quotes or line
//! ends in it, quotes doubled within.

/// A record, with the line on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// From 1.
    pub line: usize,
    /// Its fields.
    pub fields: Vec<String>,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Every record of a text. Lines without anything are left out.
pub fn read(text: &str) -> Result<Vec<Record>, CsvError> {
    let mut records = Vec::new();
    let mut record = Record { line: 1, fields: Vec::new() };
    let mut field = String::new();
    let (mut line, mut column) = (1, 0);
    // Where the quote stands within which we are, and whether the field had one that is over.
    let mut open: Option<(usize, usize)> = None;
    let mut quoted = false;
    let mut chars = text.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(c) = chars.next() {
        column += 1;
        match (c, open) {
            ('"', Some(_)) if chars.next_if_eq(&'"').is_some() => {
                column += 1;
                field.push('"');
            }
            ('"', Some(_)) => (open, quoted) = (None, true),
            (c, Some(_)) => {
                field.push(c);
                if c == '\n' {
                    (line, column) = (line + 1, 0);
                }
            }
            ('"', None) if field.is_empty() && !quoted => open = Some((line, column)),
            ('"', None) => {
                return Err(CsvError {
                    line,
                    column,
                    what: "a quote in the middle of a field: quote the whole field, and double this one",
                });
            }
            (',', None) => {
                record.fields.push(std::mem::take(&mut field));
                quoted = false;
            }
            ('\r', None) if chars.peek() == Some(&'\n') => column -= 1,
            ('\n', None) => {
                end(&mut records, &mut record, &mut field, quoted);
                quoted = false;
                (line, column) = (line + 1, 0);
                record.line = line;
            }
            (_, None) if quoted => {
                return Err(CsvError {
                    line,
                    column,
                    what: "something stands behind a quoted field: a comma or the line's end should",
                });
            }
            (c, None) => field.push(c),
        }
    }
    if let Some((line, column)) = open {
        return Err(CsvError { line, column, what: "this quote has no partner" });
    }
    end(&mut records, &mut record, &mut field, quoted);
    Ok(records)
}

fn end(records: &mut Vec<Record>, record: &mut Record, field: &mut String, quoted: bool) {
    if record.fields.is_empty() && field.is_empty() && !quoted {
        return;
    }
    record.fields.push(std::mem::take(field));
    records.push(Record { line: record.line, fields: std::mem::take(&mut record.fields) });
}

/// A record as a line.
pub fn line<S: AsRef<str>>(fields: impl IntoIterator<Item = S>) -> String {
    let one = |field: S| {
        let field = field.as_ref();
        match field.contains(['"', ',', '\n', '\r']) {
            true => format!("\"{}\"", field.replace('"', "\"\"")),
            false => field.to_owned(),
        }
    };
    fields.into_iter().map(one).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(records in prop::collection::vec(prop::collection::vec("[a\", \n\r]{0,4}", 2..4), 0..5)) {
            let text: String = records.iter().map(line).collect();
            let read: Vec<Vec<String>> = read(&text).unwrap().into_iter().map(|r| r.fields).collect();
            prop_assert_eq!(read, records);
        }

        #[test]
        fn nothing_panics(text in "[a\",\n\r ü]{0,20}") {
            let _ = read(&text);
        }
    }

    #[test]
    fn records_know_their_lines_and_faults_their_places() {
        let records = read("\u{feff}mac,rack\r\n\r\n1,\"a\nb\"\r\n2,\"\"").unwrap();
        let lines: Vec<(usize, Vec<&str>)> =
            records.iter().map(|r| (r.line, r.fields.iter().map(String::as_str).collect())).collect();
        assert_eq!(lines, [(1, vec!["mac", "rack"]), (3, vec!["1", "a\nb"]), (5, vec!["2", ""])]);
        let wrong = |text| read(text).map_err(|e| (e.line, e.column)).unwrap_err();
        assert_eq!(wrong("a,b\nc,\"d"), (2, 3));
        assert_eq!(wrong("a,b\nc,d\"e"), (2, 4));
        assert_eq!(wrong("\"a\"b"), (1, 4));
    }
}
