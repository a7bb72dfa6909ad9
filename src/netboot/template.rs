use super::ScriptError;

/// Puts values into an iPXE template. `{{name}}` is a place; everything else is iPXE's own. Values
/// are put in once and never read again, so that a value can't name a place.
pub(super) fn render(template: &str, values: &[(&str, &str)]) -> Result<String, ScriptError> {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, tail) = after.split_once("}}").ok_or(ScriptError::Template)?;
        let value = values.iter().find(|(n, _)| *n == name).ok_or(ScriptError::Template)?.1;
        out.push_str(before);
        out.push_str(value);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// Longest text from outside that a screen shows.
const SCREEN_TEXT: usize = 64;

/// Text from outside (a host name, a serial number) for an `echo` line, where iPXE would otherwise
/// run what is in it: it has no quotes, expands `${…}` anywhere and takes `&&`, `||`, `;` and `#` for
/// its own. What isn't plainly harmless becomes `?`.
pub(super) fn screen_text(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || " ._:/,()+@=-".contains(c);
    let text: String = text.chars().take(SCREEN_TEXT).map(|c| if harmless(c) { c } else { '?' }).collect();
    match text.trim() {
        "" => "unknown".to_owned(),
        text => text.to_owned(),
    }
}

/// True where iPXE takes `word` as one plain argument: printable ASCII without blanks, no setting to
/// expand, not an operator and not a comment.
pub(super) fn is_plain_word(word: &str) -> bool {
    !word.is_empty()
        && word.bytes().all(|b| b.is_ascii_graphic())
        && !word.contains("${")
        && !word.contains("&&")
        && !word.contains("||")
        && !word.contains(';')
        && !word.starts_with('#')
}
