use std::fmt;

/// What a trusted comment says, in minisign's own form: fields with a tab between, `timestamp:` among
/// them. So a signature that the `minisign` tool made with its default comment has a signing time too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// `timestamp:` When it was signed, in seconds since 1970, by the signer's clock.
    pub signed: Option<u64>,
    /// `image:` The image's identity, 64 hex digits.
    pub image: Option<String>,
    /// `tag:` The image's name and version.
    pub tag: Option<String>,
}

impl Statement {
    /// Reads a trusted comment. Fields that we don't know are left alone.
    ///
    /// # Errors
    /// The name of a field that is there twice, or has no value that it can have.
    pub fn read(comment: &str) -> Result<Statement, &'static str> {
        let one = |name: &'static str| {
            let mut values = comment.split('\t').filter_map(|f| f.strip_prefix(name)?.strip_prefix(':'));
            match (values.next(), values.next()) {
                (value, None) => Ok(value),
                _ => Err(name),
            }
        };
        let signed = match one("timestamp")? {
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                Some(text.parse().map_err(|_| "timestamp")?)
            }
            Some(_) => return Err("timestamp"),
            None => None,
        };
        Ok(Statement { signed, image: one("image")?.map(str::to_owned), tag: one("tag")?.map(str::to_owned) })
    }

    /// True unless it names another image. A comment that names none is over the manifest all the same,
    /// which says both.
    pub fn fits(&self, image: &str, tag: &str) -> bool {
        self.image.as_deref().is_none_or(|i| i == image) && self.tag.as_deref().is_none_or(|t| t == tag)
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            self.signed.map(|s| format!("timestamp:{s}")),
            self.image.as_ref().map(|i| format!("image:{i}")),
            self.tag.as_ref().map(|t| format!("tag:{t}")),
            // What the tool adds to say that the file was hashed first.
            Some("hashed".to_owned()),
        ];
        f.write_str(&fields.into_iter().flatten().collect::<Vec<_>>().join("\t"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_ours_and_the_tools_and_refuses_what_says_two_things() {
        let ours =
            Statement { signed: Some(1_764_000_000), image: Some("ab".into()), tag: Some("web:2".into()) };
        assert_eq!(ours.to_string(), "timestamp:1764000000\timage:ab\ttag:web:2\thashed");
        assert_eq!(Statement::read(&ours.to_string()), Ok(ours.clone()));
        let tools = Statement::read("timestamp:1633700835\tfile:test\thashed").unwrap();
        assert_eq!(tools, Statement { signed: Some(1_633_700_835), ..Statement::default() });
        assert!(tools.fits("ab", "web:2") && ours.fits("ab", "web:2"));
        assert!(!ours.fits("cd", "web:2") && !ours.fits("ab", "web:1"));
        assert_eq!(Statement::read("a free text"), Ok(Statement::default()));
        for (bad, field) in [
            ("timestamp:1\ttimestamp:2", "timestamp"),
            ("timestamp:", "timestamp"),
            ("timestamp:+1", "timestamp"),
            ("timestamp:99999999999999999999", "timestamp"),
            ("image:a\timage:a", "image"),
            ("tag:a\ttag:b", "tag"),
        ] {
            assert_eq!(Statement::read(bad), Err(field), "{bad}");
        }
    }
}
