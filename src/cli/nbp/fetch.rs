//! Fetching iPXE from a Debian mirror with a private apt: its lists, its cache and its idea of what
//! is installed lie in a folder that is removed at the end, and the system's own stay as they are.

use super::sources::{self, Mirror};
use crate::{
    lab::process::{output_within, tethered},
    model::Digest,
    store::{
        Nbps, NbpsError, durable,
        nbps::{DIGESTS_FILE, Record, Recorded},
    },
};
use serde::Serialize;
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const PACKAGE: &str = "ipxe";
/// What is taken of the package, as far as it is there (Debian 12's has no arm64).
const WANTED: &[&str] = &[
    "undionly.kpxe",
    "ipxe.pxe",
    "ipxe.efi",
    "snponly.efi",
    "ipxe-arm64.efi",
    "snponly-arm64.efi",
    "ipxe-riscv64.efi",
    "ipxe-loong64.efi",
];
/// Without these the usual firmware does not boot.
const NEEDED: &[&str] = &["undionly.kpxe", "snponly.efi"];
/// Where Debian installs its archive's keys.
const ARCHIVE_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Bound of each step.
const STEP: Duration = Duration::from_secs(300);

/// How to fetch.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Debian release.
    pub suite: String,
    /// A package file instead of the mirror.
    pub deb: Option<PathBuf>,
    /// Fetch although everything is there, and replace files of one's own.
    pub force: bool,
}

/// What a fetch did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fetched {
    /// Package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Files that were written; none if all were there.
    pub written: Vec<String>,
    /// Files of the same name that somebody else put there.
    pub kept: Vec<String>,
}

/// Why boot programs could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a Debian, or one without a mirror.
    #[error(
        "no Debian mirror in {looked}: run `pristine nbp fetch` on a Debian host, give it a package file with --deb, or put boot programs of your own into {dir}"
    )]
    NoMirror {
        /// Where apt's lists would be.
        looked: String,
        /// Where own files belong.
        dir: PathBuf,
    },
    /// A tool of Debian is missing.
    #[error(
        "can't run {tool} ({why}): run `pristine nbp fetch` on a Debian host, or put boot programs of your own into {dir}"
    )]
    Tool {
        /// Which.
        tool: &'static str,
        /// Why not.
        why: String,
        /// Where own files belong.
        dir: PathBuf,
    },
    /// A tool failed.
    #[error(
        "{tool} failed: {said}\n  help: check the mirror and the network (a Debian 12 older than 12.5 doesn't have trixie's keys: upgrade debian-archive-keyring), give a package file with --deb, or put boot programs of your own into {dir}"
    )]
    Failed {
        /// Which.
        tool: &'static str,
        /// Its words.
        said: String,
        /// Where own files belong.
        dir: PathBuf,
    },
    /// The package is not what it should be.
    #[error("{deb} has no {file}: it is not Debian's `{PACKAGE}` package")]
    NotThere {
        /// Which package file.
        deb: PathBuf,
        /// Which file is missing.
        file: &'static str,
    },
    /// What is there can't be used.
    #[error(transparent)]
    Nbps(#[from] NbpsError),
    /// The file system said no.
    #[error("can't {what} {path}: {source}")]
    Io {
        /// As in "write".
        what: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io_at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::Io { what, path, source }
}

/// Puts iPXE's boot programs into `dir` and records their digests. If a fetch before this one did
/// so, and every file is as recorded, nothing is done and no network is needed.
///
/// # Errors
/// Nothing in `dir` is changed by a fetch that fails before it has all files.
pub fn fetch(dir: &Path, options: &FetchOptions) -> Result<Fetched, FetchError> {
    let record = match Record::read(dir) {
        Err(NbpsError::Record { .. }) if options.force => Record::default(),
        other => other?,
    };
    if !options.force && options.deb.is_none() {
        let ours = record.files.iter().filter(|file| file.package == PACKAGE);
        if let Some(first) = ours.clone().next().filter(|_| NEEDED.iter().all(|n| is_recorded(&record, n))) {
            let nbps = Nbps::load(dir)?;
            if ours.clone().all(|file| nbps.get(&file.name).is_some()) {
                let (package, version) = (first.package.clone(), first.version.clone());
                return Ok(Fetched { package, version, written: Vec::new(), kept: Vec::new() });
            }
        }
    }
    let work = Work::new()?;
    let deb = match &options.deb {
        Some(deb) => deb.clone(),
        None => download(&work, &options.suite, dir)?,
    };
    let unpacked = work.0.join("unpacked");
    let deb_arg = deb.display().to_string();
    run(tethered("dpkg-deb").args(["-x", &deb_arg]).arg(&unpacked), "dpkg-deb", dir)?;
    let version =
        run(tethered("dpkg-deb").args(["-f", &deb_arg, "Version"]), "dpkg-deb", dir)?.trim().to_owned();
    let mut found = Vec::new();
    for name in WANTED {
        let path = unpacked.join("usr/lib/ipxe").join(name);
        match fs::read(&path) {
            Ok(bytes) => found.push((*name, bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_at("read", &path)(e)),
        }
    }
    if let Some(file) = NEEDED.iter().find(|needed| found.iter().all(|(name, _)| name != *needed)) {
        return Err(FetchError::NotThere { deb, file });
    }
    install(dir, found, record, &version, options.force)
}

fn is_recorded(record: &Record, name: &str) -> bool {
    record.files.iter().any(|file| file.name == name)
}

/// Writes the files, then the record. A kill in between leaves files without a record, which are
/// served like files of one's own; a record never speaks of files that are not there yet.
fn install(
    dir: &Path,
    found: Vec<(&str, Vec<u8>)>,
    mut record: Record,
    version: &str,
    force: bool,
) -> Result<Fetched, FetchError> {
    durable::create_dir_all(dir).map_err(io_at("make folder", dir))?;
    let record_path = dir.join(DIGESTS_FILE);
    let mut fetched = Fetched {
        package: PACKAGE.to_owned(),
        version: version.to_owned(),
        written: Vec::new(),
        kept: Vec::new(),
    };
    durable::remove_file(&record_path).map_err(io_at("replace", &record_path))?;
    for (name, bytes) in found {
        let path = dir.join(name);
        if !force && !is_recorded(&record, name) && fs::read(&path).is_ok_and(|own| own != bytes) {
            fetched.kept.push(name.to_owned());
            continue;
        }
        durable::write_atomic(&path, &bytes, 0o644).map_err(io_at("write", &path))?;
        record.files.retain(|file| file.name != name);
        record.files.push(Recorded {
            name: name.to_owned(),
            sha256: Digest::of(&bytes),
            size: bytes.len() as u64,
            package: PACKAGE.to_owned(),
            version: version.to_owned(),
        });
        fetched.written.push(name.to_owned());
    }
    record.files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = serde_json::to_vec_pretty(&record).map_err(|e| io_at("write", &record_path)(e.into()))?;
    text.push(b'\n');
    durable::write_atomic(&record_path, &text, 0o644).map_err(io_at("write", &record_path))?;
    Ok(fetched)
}

/// A folder that goes when it is dropped.
struct Work(PathBuf);

impl Work {
    fn new() -> Result<Work, FetchError> {
        let parent = std::env::temp_dir();
        let path = durable::tmp_name(&parent);
        // apt downloads as a user of its own, who must reach into it.
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(io_at("make folder", &path))?;
        Ok(Work(path))
    }

    fn folder(&self, name: &str) -> Result<PathBuf, FetchError> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).map_err(io_at("make folder", &path))?;
        Ok(path)
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf, FetchError> {
        let path = self.0.join(name);
        fs::write(&path, text).map_err(io_at("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            .map_err(io_at("set the mode of", &path))?;
        Ok(path)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What can't be removed lies in the temporary folder, where it is cleared some day.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Downloads the package from the first of the host's mirrors that has it.
fn download(work: &Work, suite: &str, dir: &Path) -> Result<PathBuf, FetchError> {
    let mirrors = host_mirrors(Path::new("/etc/apt"));
    let mut failed = FetchError::NoMirror {
        looked: "/etc/apt/sources.list and /etc/apt/sources.list.d".to_owned(),
        dir: dir.to_owned(),
    };
    for mirror in mirrors.iter().take(3) {
        match download_from(work, mirror, suite, dir) {
            Ok(deb) => return Ok(deb),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The mirrors in apt's lists; a list that can't be read has none.
fn host_mirrors(etc: &Path) -> Vec<Mirror> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let mut mirrors = sources::one_line(&read(&etc.join("sources.list")));
    let parts = fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten();
    let mut parts: Vec<PathBuf> = parts.map(|part| part.path()).collect();
    parts.sort();
    for part in parts {
        match part.extension().and_then(|e| e.to_str()) {
            Some("list") => mirrors.extend(sources::one_line(&read(&part))),
            Some("sources") => mirrors.extend(sources::deb822(&read(&part))),
            _ => {}
        }
    }
    sources::by_likelihood(mirrors)
}

fn download_from(work: &Work, mirror: &Mirror, suite: &str, dir: &Path) -> Result<PathBuf, FetchError> {
    let config = private_apt(work, mirror, suite)?;
    let downloads = work.folder("downloads")?;
    let apt = |args: &[&str]| {
        let mut command = tethered("apt-get");
        command.args(["-q", "-c"]).arg(&config).args(args).current_dir(&downloads).env("LC_ALL", "C");
        run(&mut command, "apt-get", dir)
    };
    apt(&["-o", "APT::Update::Error-Mode=any", "update"])?;
    apt(&["download", PACKAGE])?;
    let debs = fs::read_dir(&downloads).map_err(io_at("read", &downloads))?.flatten();
    let deb = debs.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "deb"));
    let said = format!("it downloaded no {PACKAGE} package");
    deb.ok_or(FetchError::Failed { tool: "apt-get", said, dir: dir.to_owned() })
}

/// Read after the host's own configuration, of which proxies and credentials count here too; its
/// hooks, lists, cache and preferences don't.
fn private_apt(work: &Work, mirror: &Mirror, suite: &str) -> Result<PathBuf, FetchError> {
    let base = work.0.display();
    for folder in ["state/lists/partial", "cache/archives/partial", "sources.d", "none.d"] {
        work.folder(folder)?;
    }
    work.file("state/status", "")?;
    let signed_by = mirror.signed_by.clone().or_else(|| {
        let keyring = Path::new(ARCHIVE_KEYRING).exists();
        keyring.then(|| ARCHIVE_KEYRING.to_owned())
    });
    let mut source = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", mirror.uri);
    if let Some(key) = signed_by {
        source.push_str(&format!("Signed-By: {key}\n"));
    }
    if mirror.trusted {
        source.push_str("Trusted: yes\n");
    }
    work.file("sources.d/debian.sources", &source)?;
    work.file(
        "apt.conf",
        &format!(
            "#clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Post-Invoke;\n\
             #clear DPkg::Pre-Install-Pkgs;\n\
             Dir::State \"{base}/state\";\n\
             Dir::State::lists \"{base}/state/lists\";\n\
             Dir::State::status \"{base}/state/status\";\n\
             Dir::Cache \"{base}/cache\";\n\
             Dir::Cache::archives \"{base}/cache/archives\";\n\
             Dir::Log \"{base}/state\";\n\
             Dir::Etc::sourcelist \"/dev/null\";\n\
             Dir::Etc::sourceparts \"{base}/sources.d\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"{base}/none.d\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n\
             Acquire::http::Timeout \"30\";\n\
             Acquire::https::Timeout \"30\";\n"
        ),
    )
}

/// Runs a tool to its end; its standard output.
fn run(command: &mut Command, tool: &'static str, dir: &Path) -> Result<String, FetchError> {
    let mut taken = Command::new("");
    std::mem::swap(&mut taken, command);
    let dir = dir.to_owned();
    let out = match output_within(taken, STEP) {
        Ok(out) => out,
        Err(error) => return Err(FetchError::Tool { tool, why: error.to_string(), dir }),
    };
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    if out.status.code() == Some(127) {
        return Err(FetchError::Tool { tool, why: "not found".to_owned(), dir });
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    // Errors are marked; without a mark, the last words tell most.
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("E:")).collect();
    let said =
        if errors.is_empty() { said.lines().next_back().unwrap_or("").to_owned() } else { errors.join("; ") };
    Err(FetchError::Failed { tool, said, dir })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    fn programs(efi: &str) -> Vec<(&'static str, Vec<u8>)> {
        vec![("undionly.kpxe", b"bios".to_vec()), ("snponly.efi", efi.into())]
    }

    #[test]
    fn own_files_are_kept_and_recorded_ones_replaced() {
        let work = Work::new().unwrap();
        let dir = work.0.join("nbp");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("snponly.efi"), "my own").unwrap();
        let fetched = install(&dir, programs("1"), Record::default(), "1", false).unwrap();
        assert_eq!(
            (fetched.written, fetched.kept),
            (vec!["undionly.kpxe".into()], vec!["snponly.efi".into()])
        );
        assert_eq!(Nbps::load(&dir).unwrap().get("snponly.efi").unwrap(), "my own");

        let forced = install(&dir, programs("1"), Record::read(&dir).unwrap(), "1", true).unwrap();
        assert_eq!(forced.written.len(), 2);
        let newer = install(&dir, programs("2"), Record::read(&dir).unwrap(), "2", false).unwrap();
        assert_eq!(newer.written.len(), 2, "what we wrote before is ours to replace");
        let nbps = Nbps::load(&dir).unwrap();
        assert_eq!(nbps.get("snponly.efi").unwrap(), "2");
        assert!(nbps.list().iter().all(|nbp| nbp.origin.as_ref().unwrap().version == "2"));
    }

    #[test]
    fn what_is_there_needs_no_network_and_no_tools() {
        let work = Work::new().unwrap();
        let dir = work.0.join("nbp");
        install(&dir, programs("1"), Record::default(), "7", false).unwrap();
        let options = FetchOptions { suite: "no-such-suite".into(), deb: None, force: false };
        let fetched = fetch(&dir, &options).unwrap();
        assert_eq!((fetched.version.as_str(), fetched.written.len()), ("7", 0));
        fs::write(dir.join("snponly.efi"), "changed").unwrap();
        assert!(fetch(&dir, &options).unwrap_err().to_string().contains("snponly.efi"));
    }

    #[test]
    fn a_package_that_is_something_else_changes_nothing() {
        let work = Work::new().unwrap();
        let (dir, deb) = (work.0.join("nbp"), work.file("x.deb", "no package").unwrap());
        let options = FetchOptions { suite: "trixie".into(), deb: Some(deb), force: false };
        let said = fetch(&dir, &options).unwrap_err().to_string();
        assert!(said.contains("dpkg-deb failed") && said.contains("of your own"), "{said}");
        assert!(!dir.exists());
    }
}
