//! Rows of machines as files: CSV with a head, or JSON. Whatever is wrong is said with its line.

use super::csv;
use crate::{
    fleet::MachineRow,
    model::{Mac, nearest, wire::Problem},
};
use std::collections::BTreeSet;

/// Columns beside `label.NAME`.
const COLUMNS: &[&str] = &["mac", "hostname", "rack", "nbp", "pin", "other_macs"];

/// Rows, with the line of each.
#[derive(Debug, Default)]
pub struct Rows {
    /// The machines.
    pub machines: Vec<MachineRow>,
    /// Where each begins, from 1.
    lines: Vec<usize>,
}

impl Rows {
    /// Reads a file: JSON where it begins with a bracket, else CSV.
    ///
    /// # Errors
    /// What is wrong, each as `LINE: words`.
    pub fn read(text: &str) -> Result<Rows, Vec<String>> {
        match text.trim_start_matches('\u{feff}').trim_start().starts_with(['[', '{']) {
            true => json(text).map_err(|e| vec![e]),
            false => from_csv(text),
        }
    }

    /// What the service says of a row, with its line.
    pub fn locate(&self, problem: &Problem) -> String {
        let row = problem.path.strip_prefix("machine[").and_then(|rest| rest.split_once(']'));
        let found = row.and_then(|(n, field)| {
            let line = self.lines.get(n.parse::<usize>().ok()?)?;
            Some((line, field.trim_start_matches('.')))
        });
        match found {
            Some((line, "")) => format!("{line}: {}", problem.message),
            Some((line, field)) => {
                format!("{line}: {}: {}", field.replace("labels.", "label "), problem.message)
            }
            None => problem.message.clone(),
        }
    }
}

fn json(text: &str) -> Result<Rows, String> {
    let text = text.trim_start_matches('\u{feff}');
    let all: Vec<&serde_json::value::RawValue> = serde_json::from_str(text).map_err(|e| {
        format!(
            "{}:{}: {e}; a list of machines should be here, as `pristine machine export --json` writes it",
            e.line(),
            e.column()
        )
    })?;
    let mut rows = Rows::default();
    let (mut line, mut counted) = (1, 0);
    for raw in all {
        // Where the row begins: a part of the text, so the distance of the two is within it.
        let at = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        line += text.get(counted..at).unwrap_or_default().matches('\n').count();
        counted = at;
        let row =
            serde_json::from_str(raw.get()).map_err(|e| format!("{}: {}", line + e.line() - 1, said(&e)))?;
        rows.machines.push(row);
        rows.lines.push(line);
    }
    Ok(rows)
}

/// serde's words without its own place, which counts from the row's beginning; with the key that was meant.
fn said(e: &serde_json::Error) -> String {
    let words = e.to_string();
    let words = words.rsplit_once(" at line ").map_or(words.as_str(), |(words, _)| words);
    let unknown = words.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    match unknown.and_then(|(key, rest)| nearest(key, rest.split('`').skip(1).step_by(2))) {
        Some(near) => format!("{words}; did you mean `{near}`?"),
        None => words.to_owned(),
    }
}

fn from_csv(text: &str) -> Result<Rows, Vec<String>> {
    let records = csv::read(text).map_err(|e| vec![format!("{}:{}: {}", e.line, e.column, e.what)])?;
    let mut records = records.into_iter();
    let Some(head) = records.next() else {
        return Err(vec![format!(
            "1: the file is empty: it begins with a line of columns, as in {}",
            COLUMNS.join(",")
        )]);
    };
    let mut problems = columns(&head);
    let mut rows = Rows::default();
    for record in records {
        if problems.len() >= 20 {
            break;
        }
        if record.fields.len() != head.fields.len() {
            let (is, should) = (record.fields.len(), head.fields.len());
            problems.push(format!("{}: it has {is} fields, and the head has {should}", record.line));
            continue;
        }
        match row(&head.fields, &record.fields) {
            Ok(row) => {
                rows.machines.push(row);
                rows.lines.push(record.line);
            }
            Err((column, words)) => problems.push(format!("{}: {column}: {words}", record.line)),
        }
    }
    if problems.is_empty() { Ok(rows) } else { Err(problems) }
}

fn columns(head: &csv::Record) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for name in &head.fields {
        let known =
            COLUMNS.contains(&name.as_str()) || name.strip_prefix("label.").is_some_and(|l| !l.is_empty());
        if !known {
            let near = nearest(name, COLUMNS.iter().copied())
                .map_or_else(String::new, |near| format!("; did you mean {near}?"));
            problems.push(format!(
                "{}: unknown column `{}`{near} (allowed: {}, label.NAME)",
                head.line,
                name.chars().take(80).collect::<String>(),
                COLUMNS.join(", ")
            ));
        } else if !seen.insert(name) {
            problems.push(format!("{}: column {name} is there twice", head.line));
        }
    }
    if !seen.contains(&"mac".to_owned()) {
        problems.push(format!("{}: there is no column `mac`, which names the machine", head.line));
    }
    problems
}

/// A row of fields; the column that is wrong.
fn row<'a>(head: &'a [String], fields: &[String]) -> Result<MachineRow, (&'a str, String)> {
    let mut row = MachineRow::new(Mac([0; 6]));
    for (column, field) in head.iter().zip(fields) {
        let column = column.as_str();
        let field = field.trim();
        let value = || Some(field.to_owned()).filter(|f| !f.is_empty());
        match column {
            "mac" => row.mac = field.parse().map_err(|e: crate::model::MacError| (column, e.to_string()))?,
            "hostname" => row.hostname = Some(value()),
            "rack" => row.rack = Some(value()),
            "nbp" => row.nbp = Some(value()),
            "pin" => row.pin = Some(value()),
            "other_macs" => {
                let macs: Result<Vec<Mac>, _> = field.split_whitespace().map(str::parse).collect();
                row.other_macs = Some(macs.map_err(|e: crate::model::MacError| (column, e.to_string()))?);
            }
            _ => {
                let label = column.strip_prefix("label.").unwrap_or(column);
                row.labels.insert(label.to_owned(), value());
            }
        }
    }
    Ok(row)
}

/// Rows as CSV: a column for each label that any machine has.
pub fn to_csv(rows: &[MachineRow]) -> String {
    let labels: BTreeSet<&String> = rows.iter().flat_map(|r| r.labels.keys()).collect();
    let head = COLUMNS.iter().map(|c| (*c).to_owned()).chain(labels.iter().map(|l| format!("label.{l}")));
    let mut out = csv::line(head);
    for row in rows {
        let text = |value: &Option<Option<String>>| value.clone().flatten().unwrap_or_default();
        let others = row.other_macs.iter().flatten().map(Mac::to_string).collect::<Vec<_>>().join(" ");
        let fixed = [
            row.mac.to_string(),
            text(&row.hostname),
            text(&row.rack),
            text(&row.nbp),
            text(&row.pin),
            others,
        ];
        let values = labels.iter().map(|l| row.labels.get(*l).cloned().flatten().unwrap_or_default());
        out.push_str(&csv::line(fixed.into_iter().chain(values)));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::model::{BootTarget, Machine};

    fn machines() -> Vec<MachineRow> {
        let mut m = Machine::new(Mac([2, 0, 0, 0, 0, 1]), 0);
        m.hostname = Some("db7".into());
        m.labels = [("role".to_owned(), "db".to_owned())].into();
        m.other_macs = vec![Mac([2, 0, 0, 0, 1, 1]), Mac([2, 0, 0, 0, 2, 1])];
        m.pin = Some(BootTarget::Local);
        let mut n = Machine::new(Mac([2, 0, 0, 0, 0, 2]), 0);
        n.rack = Some("a1".into());
        vec![MachineRow::of(&m), MachineRow::of(&n)]
    }

    #[test]
    fn what_is_exported_is_imported_as_the_same() {
        let csv = to_csv(&machines());
        assert_eq!(
            csv,
            "mac,hostname,rack,nbp,pin,other_macs,label.role\n\
             02:00:00:00:00:01,db7,,,local,02:00:00:00:01:01 02:00:00:00:02:01,db\n\
             02:00:00:00:00:02,,a1,,,,\n"
        );
        let mut expected = machines();
        expected[1].labels.insert("role".into(), None);
        assert_eq!(Rows::read(&csv).unwrap().machines, expected);
        let json = serde_json::to_string_pretty(&machines()).unwrap();
        assert_eq!(Rows::read(&json).unwrap().machines, machines());
    }

    #[test]
    fn a_column_that_is_not_there_stays_as_it_is_and_an_empty_field_clears() {
        let rows = Rows::read("mac,rack,label.role\n020000000001,,db\n").unwrap().machines;
        assert_eq!((rows[0].hostname.clone(), rows[0].rack.clone()), (None, Some(None)));
        assert_eq!(rows[0].labels["role"], Some("db".into()));
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_column() {
        let wrong = |text: &str| Rows::read(text).unwrap_err();
        assert!(wrong("mac,hostnam\n")[0].starts_with("1: unknown column `hostnam`; did you mean hostname?"));
        assert_eq!(wrong("rack,rack\n").len(), 2);
        assert_eq!(wrong("mac,rack\n020000000001,a\n02000000000,a\n020000000001\n").len(), 2);
        assert!(
            wrong("mac,rack\n020000000001,a\n02000000000,a\n")[0].starts_with("3: mac: `02000000000` is not")
        );
        assert!(wrong("mac\n\"")[0].starts_with("2:1: this quote has no partner"));
        assert!(wrong("")[0].starts_with("1: the file is empty"));
        let json = "[\n {\"mac\": \"020000000001\"},\n {\"mac\": \"020000000002\",\n  \"rak\": \"a1\"}\n]";
        let said = wrong(json);
        assert!(
            said[0].starts_with("4: unknown field `rak`") && said[0].ends_with("did you mean `rack`?"),
            "{said:?}"
        );
        assert!(wrong("[1]")[0].starts_with("1: invalid type"));
        assert!(wrong("[\n{]")[0].starts_with("2:2: "), "{:?}", wrong("[\n{]"));
        let rows = Rows::read("mac,rack\n020000000001,a\n\n020000000002,a\n").unwrap();
        let problem = Problem::new("machine[1].hostname", "taken");
        assert_eq!(rows.locate(&problem), "4: hostname: taken");
        assert_eq!(rows.locate(&Problem::new("default", "x")), "x");
    }
}
