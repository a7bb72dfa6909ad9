//! Reading a configuration file: every error names file, line, column, key, what is wrong and what
//! is allowed.

use super::Config;
use crate::model::nearest;
use serde::de::DeserializeOwned;
use std::{fmt, io::ErrorKind, ops::Range, path::Path, path::PathBuf};

/// Columns of a line within which a fault is shown.
const SHOWN: usize = 200;

/// One thing that is wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; `None` where the fault has no place (a key that is missing everywhere).
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line itself.
    pub source: String,
    /// Characters of the line that are wrong.
    pub width: usize,
    /// Dotted key, as in `http.port` or `subnet[1].pool`.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What is allowed there.
    pub allowed: Option<String>,
    /// The allowed word that was probably meant.
    pub nearest: Option<String>,
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {}: {source}\n  help: {help}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do.
        help: &'static str,
    },
    /// The file says something that can't be.
    #[error("{}", render(path, problems))]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it, in file order.
        problems: Vec<Problem>,
    },
}

impl Config {
    /// Reads and checks `path`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable {
                path: path.to_owned(),
                help: match source.kind() {
                    ErrorKind::InvalidData => "it is not text in UTF-8: is it the right file?",
                    ErrorKind::IsADirectory => "it is a folder: name the file in it",
                    ErrorKind::PermissionDenied => "run this as a user who may read it, or with sudo",
                    _ => "name another file with --config, or serve a flat network without one: pristine serve --interface <name>",
                },
                source,
            })?;
        Config::parse(&text, path)
    }

    /// Checks `text`, which came from `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let wrong = |problems| ConfigError::Wrong { path: path.to_owned(), problems };
        let config: Config =
            toml::from_str(text).map_err(|e| wrong(vec![Problem::of_toml::<Config>(text, &e)]))?;
        let mut problems = config.problems(text);
        if problems.is_empty() {
            return Ok(config);
        }
        problems.sort_by_key(|p| (p.line, p.column));
        Err(wrong(problems))
    }
}

impl Problem {
    /// A problem at `span` of `text`.
    pub(super) fn at(text: &str, span: Option<Range<usize>>, message: impl Into<String>) -> Problem {
        let place = span.clone().map(|s| place(text, s));
        let (line, column, source, width) = match place {
            Some((l, c, s, w)) => (Some(l), c, s, w),
            None => (None, 1, String::new(), 0),
        };
        let key = span.and_then(|s| key_at(text, s.start));
        Problem { line, column, source, width, key, message: message.into(), allowed: None, nearest: None }
    }

    /// What a reader of TOML says, with what is allowed and what was probably meant.
    pub fn of_toml<T: DeserializeOwned>(text: &str, error: &toml::de::Error) -> Problem {
        explain::<T>(text, error)
    }

    /// Something wrong with what stands at a dotted path, as in `rule[0].select`, and there at a column of
    /// the text that it is.
    pub fn located(text: &str, path: &str, column: Option<usize>, message: &str) -> Problem {
        let span = span_at(text, path).map(|span| match column.filter(|c| *c > 0) {
            Some(column) => within(text, span, column - 1),
            None => span,
        });
        Problem { key: Some(path.replace('"', "")), ..Problem::at(text, span, message) }
    }

    /// Adds what is allowed.
    pub(super) fn allowed(mut self, allowed: impl Into<String>) -> Problem {
        self.allowed = Some(allowed.into());
        self
    }
}

fn place(text: &str, span: Range<usize>) -> (usize, usize, String, usize) {
    let start = (0..=span.start.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let (before, after) = text.split_at(start);
    let line = before.matches('\n').count() + 1;
    let head = before.rsplit('\n').next().unwrap_or("");
    let tail = after.split('\n').next().unwrap_or("");
    let column = head.chars().count() + 1;
    let marked = text.get(start..span.end).unwrap_or("").split('\n').next().unwrap_or("");
    // The beginning of a long line is shown, and nothing of one that is wrong far from its beginning.
    let shown = if column > SHOWN { 0 } else { SHOWN + SHOWN };
    let source: String = format!("{head}{tail}").trim_end().chars().take(shown).collect();
    (line, column, source, marked.trim_end().chars().count().clamp(1, SHOWN))
}

/// The dotted key whose name or value lies at byte `at`.
fn key_at(text: &str, at: usize) -> Option<String> {
    use toml::de::{DeTable, DeValue};
    fn in_table(table: &DeTable<'_>, at: usize, path: &str) -> Option<String> {
        for (key, value) in table {
            let name: &str = key.get_ref();
            let whole = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            if key.span().contains(&at) {
                return Some(whole);
            }
            if let Some(found) = in_value(value.get_ref(), value.span(), at, &whole) {
                return Some(found);
            }
        }
        None
    }
    fn in_value(value: &DeValue<'_>, span: Range<usize>, at: usize, path: &str) -> Option<String> {
        match value {
            DeValue::Table(t) => {
                in_table(t, at, path).or_else(|| span.contains(&at).then(|| path.to_owned()))
            }
            DeValue::Array(a) => a
                .iter()
                .enumerate()
                .find_map(|(i, v)| in_value(v.get_ref(), v.span(), at, &format!("{path}[{i}]")))
                .or_else(|| span.contains(&at).then(|| path.to_owned())),
            _ => span.contains(&at).then(|| path.to_owned()),
        }
    }
    in_table(DeTable::parse(text).ok()?.get_ref(), at, "")
}

/// Where the value of a dotted path stands; of one that isn't there, the nearest that it would be in.
fn span_at(text: &str, path: &str) -> Option<Range<usize>> {
    use toml::de::{DeTable, DeValue};
    let root = DeTable::parse(text).ok()?;
    let mut value: Option<&toml::Spanned<DeValue<'_>>> = None;
    for step in steps(path) {
        let next = match value.map(toml::Spanned::get_ref) {
            None => root.get_ref().get(step.as_str()),
            Some(DeValue::Table(table)) => table.get(step.as_str()),
            Some(DeValue::Array(items)) => step.parse::<usize>().ok().and_then(|n| items.get(n)),
            Some(_) => None,
        };
        match next {
            Some(found) => value = Some(found),
            None => break,
        }
    }
    value.map(toml::Spanned::span)
}

/// `rule[0]."a.b"` as `rule`, `0`, `a.b`.
fn steps(path: &str) -> Vec<String> {
    let mut steps = Vec::new();
    let mut step = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in path.chars() {
        match c {
            c if escaped => {
                step.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '.' | '[' if !quoted => steps.push(std::mem::take(&mut step)),
            ']' if !quoted => {}
            c => step.push(c),
        }
    }
    steps.push(step);
    steps
}

/// The place `skip` characters into the text whose value stands at `span`; all of it where the text is not
/// written as it is: with escapes, or over several lines.
fn within(text: &str, span: Range<usize>, skip: usize) -> Range<usize> {
    let written = text.get(span.clone()).unwrap_or_default();
    let inner = written.get(1..written.len().saturating_sub(1)).unwrap_or_default();
    let plain = written.starts_with(['"', '\'']) && !inner.starts_with(['"', '\'']) && !inner.contains('\\');
    if !plain {
        return span;
    }
    let start = span.start + 1 + inner.chars().take(skip).map(char::len_utf8).sum::<usize>();
    start..start + 1
}

/// serde's words, taken apart: `unknown field `x`, expected one of `a`, `b`` becomes a message, what
/// is allowed and the nearest of it.
fn explain<T: DeserializeOwned>(text: &str, error: &toml::de::Error) -> Problem {
    let message = error.message().trim();
    let mut problem = Problem::at(text, error.span(), message);
    let split = ["unknown field `", "unknown variant `"]
        .iter()
        .find_map(|p| message.strip_prefix(p).and_then(|rest| rest.split_once('`')).map(|r| (*p, r)));
    if let Some((what, (word, rest))) = split {
        let allowed: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        problem.nearest = nearest(word, allowed.iter().copied()).map(str::to_owned);
        problem.allowed = Some(allowed.join(", "));
        let unknown_key = what.starts_with("unknown field");
        let what = if unknown_key { "unknown key" } else { "unknown value" };
        problem.message = format!("{what} `{word}`");
        if unknown_key && problem.key.as_deref().is_none_or(|k| last(k) != word) {
            // The span of some tables is their head: name the key itself.
            problem.key = Some(problem.key.map_or(word.to_owned(), |k| format!("{k}.{word}")));
        }
    } else if let Some(key) = message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`')) {
        problem.message = format!("the key `{key}` is missing");
    } else if let Some((wrong, expected)) = message.split_once(", expected ") {
        problem.message = wrong.to_owned();
        problem.allowed = Some(in_words(expected));
        if wrong == "invalid type: map" && expected == "a sequence" {
            let key = problem.key.as_deref().map_or("", last);
            problem.message = "one table where several may stand".to_owned();
            problem.allowed = Some(format!("[[{key}]], with two brackets, once for each"));
        }
    } else if message == "wanted string or table" {
        problem.message = "not a text".to_owned();
        problem.allowed = error.span().and_then(|span| words_at::<T>(text, span));
    } else if message.ends_with("address syntax") {
        let example = if message.contains("socket") { "127.0.0.1:8081" } else { "192.168.7.1" };
        problem.allowed = Some(format!("an address, as in \"{example}\""));
    }
    problem
}

/// The words that may stand at `span`: asked of the code itself, by one that can't.
fn words_at<T: DeserializeOwned>(text: &str, span: Range<usize>) -> Option<String> {
    let with_another = format!("{}\"?\"{}", text.get(..span.start)?, text.get(span.end..)?);
    let error = toml::from_str::<T>(&with_another).err()?;
    let (_, words) = error.message().split_once("expected")?;
    Some(words.split('`').skip(1).step_by(2).collect::<Vec<_>>().join(", "))
}

/// Names of Rust's types as what a person may write.
fn in_words(expected: &str) -> String {
    match expected {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" | "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "a string" | "path string" => "a text in quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list, as in [\"a\", \"b\"]".to_owned(),
        other if other.starts_with("struct ") => "a table: its name in brackets, then its keys".to_owned(),
        other => other.to_owned(),
    }
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn render(path: &Path, problems: &[Problem]) -> String {
    let mut out = String::new();
    for (i, p) in problems.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        out.push_str(&format!("{}{p}", path.display()));
    }
    out
}

impl fmt::Display for Problem {
    /// Without the file's name, which goes directly in front.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, ":{line}:{}: ", self.column)?,
            None => f.write_str(": ")?,
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(line) = self.line.filter(|_| self.column <= SHOWN) {
            let number = line.to_string();
            write!(f, "\n  {number} | {}", self.source)?;
            write!(f, "\n  {0:1$} | {0:2$}{3}", "", number.len(), self.column - 1, "^".repeat(self.width))?;
        }
        if let Some(allowed) = &self.allowed {
            write!(f, "\n  allowed: {allowed}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "\n  did you mean `{nearest}`?")?;
        }
        Ok(())
    }
}
