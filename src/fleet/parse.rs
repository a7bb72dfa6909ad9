//! From text to an expression. What is wrong is said with the column where it is.

use super::selector::{Expr, KEYS, Key, Relation};
use crate::model::nearest;
use std::fmt;

/// Longest selector, in bytes.
const MAX_LEN: usize = 4096;
/// Most conditions in one selector.
const MAX_CONDITIONS: usize = 256;
/// Deepest nesting of brackets and `not`s.
const MAX_DEPTH: usize = 32;
/// Words that mean something, and so are no values unless they are quoted.
const RESERVED: &[&str] = &["and", "or", "not", "in", "has", "all"];

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError {
    /// The text, cut where it is too long to show.
    pub text: String,
    /// Where it is wrong: characters from its beginning, the first is 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "selector, column {}: {}", self.column, self.what)?;
        if self.text.chars().count() <= 200 && !self.text.chars().any(char::is_control) {
            write!(f, "\n  {}\n  {:>width$}", self.text, "^", width = self.column)?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SelectorError {}

pub(super) fn parse(text: &str) -> Result<Expr, SelectorError> {
    let mut parser = Parser { text, tokens: Vec::new(), next: 0, depth: 0, conditions: 0 };
    if text.len() > MAX_LEN {
        return Err(parser.error(1, format!("it is longer than {MAX_LEN} bytes"), None));
    }
    parser.tokens = parser.scan()?;
    let expr = parser.or()?;
    match parser.peek().clone() {
        Token::End => Ok(expr),
        token => Err(parser.wrong(&format!("`and`, `or` or the end, but {token}"))),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A word as it stands, or (true) one that stood in quotes.
    Word(String, bool),
    Open,
    Close,
    Comma,
    Equal,
    Unequal,
    /// `<`, `<=`, `>` or `>=`.
    Order(Relation),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word, false) => write!(f, "`{word}` is there"),
            Token::Word(word, true) => write!(f, "\"{word}\" is there"),
            Token::Open => f.write_str("`(` is there"),
            Token::Close => f.write_str("`)` is there"),
            Token::Comma => f.write_str("`,` is there"),
            Token::Equal => f.write_str("`=` is there"),
            Token::Unequal => f.write_str("`!=` is there"),
            Token::Order(Relation::Less | Relation::Equal) => f.write_str("`<` is there"),
            Token::Order(Relation::LessOrEqual) => f.write_str("`<=` is there"),
            Token::Order(Relation::Greater) => f.write_str("`>` is there"),
            Token::Order(Relation::GreaterOrEqual) => f.write_str("`>=` is there"),
            Token::End => f.write_str("it ends"),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// With the column of each.
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
    conditions: usize,
}

/// What may be in a value without quotes.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._:/@+*-".contains(c)
}

impl Parser<'_> {
    fn error(&self, column: usize, what: String, help: Option<String>) -> SelectorError {
        SelectorError { text: self.text.chars().take(MAX_LEN).collect(), column, what, help }
    }

    fn scan(&self) -> Result<Vec<(usize, Token)>, SelectorError> {
        let mut tokens = Vec::new();
        let mut chars = self.text.chars().zip(1..).peekable();
        while let Some((c, column)) = chars.next() {
            let token = match c {
                c if c.is_whitespace() => continue,
                '(' => Token::Open,
                ')' => Token::Close,
                ',' => Token::Comma,
                '=' => {
                    // `==` is what many a language writes.
                    chars.next_if(|(c, _)| *c == '=');
                    Token::Equal
                }
                '<' | '>' => Token::Order(match (c, chars.next_if(|(c, _)| *c == '=').is_some()) {
                    ('<', false) => Relation::Less,
                    ('<', true) => Relation::LessOrEqual,
                    (_, false) => Relation::Greater,
                    (_, true) => Relation::GreaterOrEqual,
                }),
                '!' if chars.next_if(|(c, _)| *c == '=').is_some() => Token::Unequal,
                '"' => {
                    let mut word = String::new();
                    loop {
                        match chars.next() {
                            Some(('"', _)) => break,
                            Some((c, _)) if !c.is_control() => word.push(c),
                            Some((_, at)) => {
                                return Err(self.error(
                                    at,
                                    "a control character can't be in a value".into(),
                                    None,
                                ));
                            }
                            None => {
                                return Err(self.error(column, "this quote has no partner".into(), None));
                            }
                        }
                    }
                    Token::Word(word, true)
                }
                c if is_plain(c) => {
                    let mut word = String::from(c);
                    while let Some((c, _)) = chars.next_if(|(c, _)| is_plain(*c)) {
                        word.push(c);
                    }
                    Token::Word(word, false)
                }
                c => {
                    let help = "a value with other characters than letters, digits and ._:/@+*- stands in double quotes";
                    return Err(self.error(
                        column,
                        format!("`{}` means nothing here", c.escape_debug()),
                        Some(help.into()),
                    ));
                }
            };
            tokens.push((column, token));
        }
        tokens.push((self.text.chars().count() + 1, Token::End));
        Ok(tokens)
    }

    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(_, token)| token)
    }

    fn column(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(1, |(column, _)| *column)
    }

    /// An error at the next token, which is not what `expected` says.
    fn wrong(&self, expected: &str) -> SelectorError {
        self.error(self.column(), format!("here should be {expected}"), None)
    }

    fn take(&mut self, token: &Token) -> bool {
        let fits = self.peek() == token;
        self.next += usize::from(fits);
        fits
    }

    fn take_word(&mut self, word: &str) -> bool {
        let fits = matches!(self.peek(), Token::Word(w, false) if w == word);
        self.next += usize::from(fits);
        fits
    }

    fn or(&mut self) -> Result<Expr, SelectorError> {
        let mut any = vec![self.and()?];
        while self.take_word("or") {
            any.push(self.and()?);
        }
        Ok(one_or(any, Expr::Or))
    }

    fn and(&mut self) -> Result<Expr, SelectorError> {
        let mut all = vec![self.not()?];
        while self.take_word("and") {
            all.push(self.not()?);
        }
        Ok(one_or(all, Expr::And))
    }

    fn not(&mut self) -> Result<Expr, SelectorError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(self.column(), format!("it is nested deeper than {MAX_DEPTH}"), None));
        }
        let expr = if self.take_word("not") { Expr::Not(Box::new(self.not()?)) } else { self.condition()? };
        self.depth -= 1;
        Ok(expr)
    }

    fn condition(&mut self) -> Result<Expr, SelectorError> {
        self.conditions += 1;
        if self.conditions > MAX_CONDITIONS {
            return Err(self.error(
                self.column(),
                format!("it has more than {MAX_CONDITIONS} conditions"),
                None,
            ));
        }
        if self.take(&Token::Open) {
            let expr = self.or()?;
            if self.take(&Token::Close) {
                return Ok(expr);
            }
            return Err(self.wrong(&format!("`)`, but {}", self.peek())));
        }
        if self.take_word("all") {
            return Ok(Expr::All);
        }
        if self.take_word("has") {
            return Ok(Expr::Has(self.key()?));
        }
        let key = self.key()?;
        if key.is_number() {
            return self.number(key);
        }
        if self.take(&Token::Equal) {
            return Ok(Expr::Is(key, vec![self.value()?]));
        }
        if self.take(&Token::Unequal) {
            return Ok(Expr::Not(Box::new(Expr::Is(key, vec![self.value()?]))));
        }
        if self.take_word("in") {
            return Ok(Expr::Is(key, self.values()?));
        }
        let found = self.peek();
        Err(self.wrong(&format!("`=`, `!=` or `in` after `{key}`, but {found}")))
    }

    fn number(&mut self, key: Key) -> Result<Expr, SelectorError> {
        let (relation, not) = match self.peek() {
            Token::Order(relation) => (*relation, false),
            Token::Equal => (Relation::Equal, false),
            Token::Unequal => (Relation::Equal, true),
            found => {
                return Err(
                    self.wrong(&format!("`=`, `!=`, `<`, `<=`, `>` or `>=` after `{key}`, but {found}"))
                );
            }
        };
        self.next += 1;
        let column = self.column();
        let word = self.value()?;
        let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let factor = match unit {
            "" => Some(1),
            "K" => Some(1 << 10),
            "M" => Some(1 << 20),
            "G" => Some(1 << 30),
            "T" => Some(1u64 << 40),
            _ => None,
        };
        let digits = word.strip_suffix(unit).and_then(|digits| digits.parse::<u64>().ok());
        let Some(n) = digits.zip(factor).and_then(|(n, factor)| n.checked_mul(factor)) else {
            let help = "a number is digits, with K, M, G or T behind them for 2^10, 2^20, 2^30 or 2^40 times as many";
            return Err(self.error(column, format!("`{word}` is no number"), Some(help.into())));
        };
        let expr = Expr::Compare(key, relation, n);
        Ok(if not { Expr::Not(Box::new(expr)) } else { expr })
    }

    fn key(&mut self) -> Result<Key, SelectorError> {
        let column = self.column();
        let word = match self.peek() {
            Token::Word(word, false) if !RESERVED.contains(&word.as_str()) => word.clone(),
            other => return Err(self.wrong(&format!("a key ({}), but {other}", KEYS.join(", ")))),
        };
        if let Some(key) = Key::parse(&word) {
            self.next += 1;
            return Ok(key);
        }
        let help = match nearest(&word, KEYS.iter().copied().filter(|k| !k.contains('.'))) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("a label is label.{word}"),
        };
        let keys = KEYS.join(", ");
        Err(self.error(column, format!("`{word}` is no key; there are {keys}"), Some(help)))
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        match self.peek().clone() {
            Token::Word(word, quoted) if quoted || !RESERVED.contains(&word.as_str()) => {
                self.next += 1;
                Ok(word)
            }
            Token::Word(word, _) => {
                let help = format!("if the value really is {word}, write \"{word}\"");
                Err(self.error(
                    self.column(),
                    format!("here should be a value, but `{word}` is there"),
                    Some(help),
                ))
            }
            other => Err(self.wrong(&format!("a value, but {other}"))),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.take(&Token::Open) {
            return Err(self.wrong(&format!("`(` after `in`, but {}", self.peek())));
        }
        let mut values = vec![self.value()?];
        while self.take(&Token::Comma) {
            values.push(self.value()?);
        }
        if !self.take(&Token::Close) {
            return Err(self.wrong(&format!("`,` or `)`, but {}", self.peek())));
        }
        Ok(values)
    }
}

fn one_or(mut many: Vec<Expr>, make: fn(Vec<Expr>) -> Expr) -> Expr {
    match many.pop() {
        Some(only) if many.is_empty() => only,
        last => {
            many.extend(last);
            make(many)
        }
    }
}
