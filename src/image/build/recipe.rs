//! A Debian from a recipe: `recipe.toml` says which packages, files and hooks; mmdebstrap makes of it a tar
//! archive, which is read like any other.

use super::super::{progress::Progress, spool};
use crate::model::{Digest, Tag};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The file that makes a folder a recipe.
pub const FILE: &str = "recipe.toml";
/// 2024-01-01: a fixed time, so that the same packages give the same bytes; not 0, which some programs take for
/// "no time".
const EPOCH: i64 = 1_704_067_200;

/// What `recipe.toml` says.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Text {
    /// Release, as in bookworm.
    suite: String,
    /// mmdebstrap's variant.
    #[serde(default = "minbase")]
    variant: String,
    #[serde(default)]
    packages: Vec<String>,
    /// Paths that packages don't bring (dpkg's `path-exclude`).
    #[serde(default)]
    exclude: Vec<String>,
    /// Of those, paths that they do bring (`path-include`).
    #[serde(default)]
    include: Vec<String>,
    /// Folder beside it that is laid over the root, owned by root.
    files: Option<String>,
    /// Programs beside it that are run with the root's folder as their argument.
    #[serde(default)]
    hooks: Vec<String>,
    /// Kernel command line template.
    cmdline: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// File beside it with apt's entries; else this machine's own for the suite.
    sources: Option<String>,
    /// No later time is kept: seconds since 1970.
    epoch: Option<i64>,
    /// By version, what it has besides.
    #[serde(default)]
    versions: BTreeMap<String, Extra>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Extra {
    #[serde(default)]
    packages: Vec<String>,
}

fn minbase() -> String {
    "minbase".into()
}

/// A recipe, read.
#[derive(Clone, Debug)]
pub struct Recipe {
    dir: PathBuf,
    digest: Digest,
    text: Text,
}

/// Why a recipe makes no root.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// It, or what it names, can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It isn't in order.
    #[error("{path}: {why}")]
    Text {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No mmdebstrap.
    #[error("a recipe needs mmdebstrap, which doesn't run here ({0}): install it (Debian: mmdebstrap)")]
    NoTool(io::Error),
    /// It failed.
    #[error("mmdebstrap made no root of {path} ({status}): what it said is above")]
    Failed {
        /// Which recipe.
        path: PathBuf,
        /// How it ended.
        status: String,
    },
    /// No room for the archive.
    #[error("can't write a temporary file in {dir}: {source}: name a folder with more room in TMPDIR")]
    Spool {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Recipe {
    /// The recipe in `path`, a folder with a `recipe.toml` or that file; `None` where it is none.
    pub fn open(path: &Path) -> Result<Option<Recipe>, RecipeError> {
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        if file.file_name().is_none_or(|name| name != FILE) || !file.is_file() {
            return Ok(None);
        }
        let read = |source| RecipeError::Read { path: file.clone(), source };
        let dir = file.parent().unwrap_or(Path::new(".")).canonicalize().map_err(read)?;
        let bytes = fs::read_to_string(&file).map_err(read)?;
        let wrong = |why: String| RecipeError::Text { path: file.clone(), why };
        let text: Text = toml::from_str(&bytes).map_err(|e| wrong(e.to_string()))?;
        text.check().map_err(wrong)?;
        let recipe = Recipe { dir, digest: Digest::of(bytes.as_bytes()), text };
        for name in recipe.text.hooks.iter().chain(&recipe.text.files).chain(&recipe.text.sources) {
            let path = recipe.dir.join(name);
            fs::metadata(&path).map_err(|source| RecipeError::Read { path, source })?;
        }
        Ok(Some(recipe))
    }

    /// Its command line.
    pub fn cmdline(&self) -> Option<&str> {
        self.text.cmdline.as_deref()
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.text.labels
    }

    /// No later time is kept.
    pub fn epoch(&self) -> i64 {
        self.text.epoch.unwrap_or(EPOCH)
    }

    /// How messages name it.
    pub fn shown(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// What goes into the provenance: what was read, and what made the root.
    pub fn provenance(&self) -> Result<BTreeMap<String, String>, RecipeError> {
        let out = Command::new("mmdebstrap").arg("--version").output().map_err(RecipeError::NoTool)?;
        let tool = String::from_utf8_lossy(&out.stdout).trim().replace("mmdebstrap ", "");
        Ok(BTreeMap::from([
            ("source".to_owned(), "recipe".to_owned()),
            ("recipe_sha256".to_owned(), self.digest.to_string()),
            ("suite".to_owned(), self.text.suite.clone()),
            ("mmdebstrap".to_owned(), tool),
        ]))
    }

    /// Has mmdebstrap make the root of a version as a tar archive, in an unnamed file in `spool`. It unpacks
    /// packages in there as well.
    pub fn run(
        &self,
        tag: &Tag,
        spool: &Path,
        clamp: i64,
        progress: &dyn Progress,
    ) -> Result<File, RecipeError> {
        let spool_error = |source| RecipeError::Spool { dir: spool.to_owned(), source };
        let archive = spool::file(spool).map_err(spool_error)?;
        let sources = self.sources()?;
        let mut command = Command::new("mmdebstrap");
        command.args(self.arguments(&tag.version)).args([&self.text.suite, "-"]);
        if !sources.is_empty() {
            command.arg("-");
        }
        command
            .env("TMPDIR", spool)
            .env("SOURCE_DATE_EPOCH", clamp.to_string())
            .env("PRISTINE_RECIPE", &self.dir)
            .env("PRISTINE_NAME", &tag.name)
            .env("PRISTINE_VERSION", &tag.version)
            .stdin(Stdio::piped())
            .stdout(archive.try_clone().map_err(spool_error)?);
        let step = progress.begin("mmdebstrap", 0);
        let mut child = command.spawn().map_err(RecipeError::NoTool)?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may end before it reads; then its status tells.
            let _ = stdin.write_all(sources.as_bytes());
        }
        let status = child.wait().map_err(RecipeError::NoTool)?;
        if !status.success() {
            return Err(RecipeError::Failed { path: self.shown(), status: status.to_string() });
        }
        step.done();
        Ok(archive)
    }

    fn arguments(&self, version: &str) -> Vec<String> {
        let text = &self.text;
        let extra = text.versions.get(version).cloned().unwrap_or_default();
        let packages: Vec<&str> = text.packages.iter().chain(&extra.packages).map(String::as_str).collect();
        let mut out = vec![
            format!("--variant={}", text.variant),
            "--format=tar".into(),
            // The kernel makes /dev.
            "--skip=output/dev".into(),
            "--aptopt=Acquire::Languages \"none\"".into(),
            "--dpkgopt=force-unsafe-io".into(),
        ];
        if packages.is_empty() {
            out.push("--skip=update".into());
        } else {
            out.push(format!("--include={}", packages.join(",")));
        }
        out.extend(text.exclude.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
        out.extend(text.include.iter().map(|path| format!("--dpkgopt=path-include={path}")));
        if let Some(files) = &text.files {
            // A folder that is a link in the root (/lib) stays one.
            out.push(format!(
                "--customize-hook=tar --create --directory=\"$PRISTINE_RECIPE/{files}\" --owner=0 --group=0 --numeric-owner \
                 --mode=u=rwX,go=rX . | tar --extract --keep-directory-symlink --directory=\"$1\""
            ));
        }
        out.extend(
            text.hooks.iter().map(|hook| format!("--customize-hook=\"$PRISTINE_RECIPE/{hook}\" \"$1\"")),
        );
        out
    }

    /// apt's entries, a line each; none where mmdebstrap is to take Debian's own mirror.
    fn sources(&self) -> Result<String, RecipeError> {
        let read =
            |path: PathBuf| fs::read_to_string(&path).map_err(|source| RecipeError::Read { path, source });
        if let Some(file) = &self.text.sources {
            return read(self.dir.join(file));
        }
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        files.sort();
        let mut lines = Vec::new();
        for file in files.into_iter().filter(|file| file.is_file()) {
            // As apt does, which reads no other endings.
            match file.extension().and_then(|ending| ending.to_str()) {
                Some("list") => lines.extend(one_line(&read(file)?)),
                Some("sources") => lines.extend(paragraphs(&read(file)?)),
                _ => {}
            }
        }
        lines.retain(|line| is_of(line, &self.text.suite));
        Ok(lines.iter().flat_map(|line| [line, "\n"]).collect())
    }
}

impl Text {
    fn check(&self) -> Result<(), String> {
        let plain = |text: &str, more: &str| {
            let ok = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            !text.is_empty() && text.len() < 256 && text.chars().all(ok) && !text.starts_with('-')
        };
        let wrong = |what: &str, text: &str, as_in: &str| {
            Err(format!("{what} `{}` can't be used: write it as in {as_in}", text.escape_debug()))
        };
        if !plain(&self.suite, "-.") {
            return wrong("suite", &self.suite, "bookworm");
        }
        if !plain(&self.variant, "-") {
            return wrong("variant", &self.variant, "minbase");
        }
        let extra = self.versions.values().flat_map(|extra| &extra.packages);
        for package in self.packages.iter().chain(extra) {
            if !plain(package, "+-.:=~/") {
                return wrong("package", package, "openssh-server");
            }
        }
        for path in self.exclude.iter().chain(&self.include) {
            if !path.starts_with('/') || !plain(path, "/*?.+-_[]@:~") {
                return wrong("path", path, "/usr/share/man/*");
            }
        }
        for file in self.hooks.iter().chain(&self.files).chain(&self.sources) {
            if !plain(file, "/._-") || file.starts_with('/') || file.split('/').any(|part| part == "..") {
                return wrong("file", file, "hooks/users, below the folder of the recipe");
            }
        }
        if self.epoch.is_some_and(|epoch| epoch < 0) {
            return Err("epoch must be seconds since 1970".into());
        }
        Ok(())
    }
}

/// Entries of a `sources.list`.
fn one_line(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| line.starts_with("deb ")).map(str::to_owned).collect()
}

/// Paragraphs of a `.sources` file, as lines (sources.list(5)).
fn paragraphs(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let fields = paragraph.iter().filter_map(|line| line.split_once(':'));
        let fields: Vec<(&str, &str)> = fields.map(|(key, value)| (key, value.trim())).collect();
        let field = |name: &str| {
            fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| *value)
        };
        let disabled = matches!(field("Enabled"), "no" | "false");
        if disabled || !field("Types").split_whitespace().any(|kind| kind == "deb") {
            continue;
        }
        // A key that stands in the file itself is of no use here: this machine's keyrings have Debian's.
        let key = Some(field("Signed-By")).filter(|key| key.starts_with('/'));
        let options = key.map_or(String::new(), |key| format!("[signed-by={key}] "));
        for uri in field("URIs").split_whitespace() {
            for suite in field("Suites").split_whitespace() {
                out.push(format!("deb {options}{uri} {suite} {}", field("Components")));
            }
        }
    }
    out
}

/// True for an entry of this release, its updates or its security updates.
fn is_of(line: &str, release: &str) -> bool {
    let rest = line.trim_start_matches("deb ").trim_start();
    let rest = if rest.starts_with('[') { rest.split_once(']').map_or("", |(_, rest)| rest) } else { rest };
    let mut words = rest.split_whitespace().skip(1);
    let ours = words
        .next()
        .and_then(|suite| suite.strip_prefix(release))
        .is_some_and(|more| matches!(more, "" | "-updates" | "-security"));
    ours && words.any(|component| component == "main")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::testing::TempDir;

    const GOOD: &str = "suite = 'bookworm'\npackages = ['systemd-sysv', 'linux-image-amd64']\nfiles = 'root'\nhooks = ['hook']\n[versions.2]\npackages = ['jq']\n";

    fn open(text: &str) -> Result<Option<Recipe>, RecipeError> {
        let dir = TempDir::new();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("hook"), "").unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        Recipe::open(dir.path())
    }

    #[test]
    fn a_version_may_have_more_packages() {
        let recipe = open(GOOD).unwrap().unwrap();
        let one = recipe.arguments("1");
        assert!(one.contains(&"--include=systemd-sysv,linux-image-amd64".to_owned()), "{one:?}");
        assert!(recipe.arguments("2").contains(&"--include=systemd-sysv,linux-image-amd64,jq".to_owned()));
        assert!(one.last().unwrap().ends_with("\"$PRISTINE_RECIPE/hook\" \"$1\""));
        assert_eq!(recipe.epoch(), EPOCH);
    }

    #[test]
    fn what_is_wrong_with_a_recipe_is_named() {
        let said = |more: &str| open(&format!("{more}\n{GOOD}")).unwrap_err().to_string();
        assert!(said("colour = 'red'").contains("colour"));
        assert!(said("exclude = ['usr/share/man']").contains("`usr/share/man`"));
        assert!(said("sources = '../list'").contains("`../list`"));
        assert!(said("sources = 'nowhere'").contains("nowhere: No such file"));
        assert!(said("cmdline = 7").contains("cmdline"));
        assert!(said("variant = '-x'").contains("variant `-x`"));
        let packages = GOOD.replace("'systemd-sysv'", "'a;b'");
        assert!(open(&packages).unwrap_err().to_string().contains("package `a;b`"));
        let dir = TempDir::new();
        assert!(Recipe::open(dir.path()).unwrap().is_none());
    }

    #[test]
    fn the_machines_own_entries_are_found_in_both_forms() {
        let list = "# x\ndeb http://deb.debian.org/debian bookworm main contrib # y\ndeb-src http://x bookworm main\ndeb [signed-by=/k.gpg arch=amd64] https://other.example stable main\n";
        let new = "Types: deb deb-src\nURIs: http://a http://b\nSuites: bookworm bookworm-security\nComponents: main\nSigned-By: /k.gpg\n\n# c\nTypes: deb\nEnabled: no\nURIs: http://c\nSuites: bookworm\nComponents: main\n";
        let mut lines = one_line(list);
        lines.extend(paragraphs(new));
        lines.retain(|line| is_of(line, "bookworm"));
        assert_eq!(
            lines,
            [
                "deb http://deb.debian.org/debian bookworm main contrib",
                "deb [signed-by=/k.gpg] http://a bookworm main",
                "deb [signed-by=/k.gpg] http://a bookworm-security main",
                "deb [signed-by=/k.gpg] http://b bookworm main",
                "deb [signed-by=/k.gpg] http://b bookworm-security main",
            ]
        );
    }
}
