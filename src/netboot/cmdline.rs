//! The kernel command line of an image: a template in its manifest, filled in for one machine and
//! one boot.
//!
//! A template may name `{server}` (`http://ip:port`), `{rootfs_url}` (where the root is, under a name that
//! ends in `.squashfs`), `{iso_url}` (the same ending in `.iso`: casper takes no other), `{mac}` (`52:54:00:12:34:56`), `{bootif}` (`01-52-54-00-12-34-56`, for `BOOTIF={bootif}`) and
//! `{boot}` (the boot attempt's name). Images with Pristine's own initramfs ("native") also get the
//! `pristine.*` words that `init` reads, and `panic=30` unless they say something of `panic=` themselves.

use super::{ServerAddr, template::is_plain_word};
use crate::model::{Arch, AttemptId, Digest, Image, Mac};
use serde::{Deserialize, Serialize};

/// How the `init` of native images gets their root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Roots {
    /// Whole, before anything of it is used.
    #[default]
    Fetch,
    /// As it is read; the rest once the image runs.
    Stream,
}

/// What is put in.
#[derive(Clone, Copy, Debug)]
pub struct CmdlineInput<'a> {
    /// Where the machine reaches the service.
    pub server: ServerAddr,
    /// The NIC that booted.
    pub mac: Mac,
    /// This boot.
    pub boot: AttemptId,
    /// The boot's one-time token: 16 to 64 of a-z, A-Z, 0-9, `_` and `-`. `/proc/cmdline` is readable in
    /// the running image, so it is good for nothing but reports of this boot.
    pub token: &'a str,
    /// Words of the machine's own, behind the image's.
    pub args: &'a [String],
    /// The configuration that `init` has to ask for.
    pub config: Option<Digest>,
    /// How its root comes; a kernel that can't stream has it come whole.
    pub roots: Roots,
}

/// Why a command line can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// A brace that isn't one of the known places.
    #[error(
        "the command line names {{{0}}}, which nothing is put into: use {{server}}, {{rootfs_url}}, {{iso_url}}, {{mac}}, {{bootif}} or {{boot}}"
    )]
    UnknownPlace(String),
    /// `{` without `}` or the other way round.
    #[error("the command line has a brace without its partner near `{0}`")]
    LoneBrace(String),
    /// `"` without its partner.
    #[error("the command line has a double quote without its partner")]
    LoneQuote,
    /// A word that iPXE would run or expand instead of passing on.
    #[error(
        "`{0}` can't be on a command line: a boot loader would run or change it (no ${{…}}, &&, ||, `;`, leading #, control or non-ASCII characters)"
    )]
    BadWord(String),
    /// Names the rootfs, but the image has none.
    #[error("the command line names {{{0}}}, but the image has no rootfs: import it with --rootfs")]
    NoRootfs(&'static str),
    /// One of our own words in the template.
    #[error("`{0}` is put on the command line by Pristine itself: leave it out")]
    Reserved(String),
    /// Longer than the kernel reads.
    #[error(
        "the command line has {have} bytes and a {arch} kernel reads {max}: shorten it (what Pristine adds is counted)"
    )]
    TooLong {
        /// Bytes.
        have: usize,
        /// Most that this kernel reads.
        max: usize,
        /// Which kernel.
        arch: Arch,
    },
    /// The boot token isn't one.
    #[error("the boot token has characters that don't belong in one")]
    BadToken,
}

/// Longest command line that a kernel reads, without its closing NUL (`COMMAND_LINE_SIZE` in each
/// architecture's `setup.h`).
pub fn max_len(arch: Arch) -> usize {
    match arch {
        Arch::X86_64 | Arch::Aarch64 => 2047,
        Arch::Riscv64 => 1023,
        Arch::Loongarch64 => 4095,
    }
}

/// Most initramfs files that an image has; their names are on the command line.
pub const MAX_INITRAMFS: usize = 4;

/// Put on a native image's command line where the image says nothing of panics: restart after 30 s.
pub const PANIC: &str = "panic=30";

/// What the boot script calls the kernel. EFI builds of iPXE put it in front of the command line; for
/// its dot the kernel takes it for a module's parameter and does not hand it on to init.
pub const KERNEL_NAME: &str = "vmlinuz.efi";

/// What the boot script calls an image's initramfs files, in their order.
pub fn initrd_name(nth: usize) -> String {
    format!("initrd{nth}")
}

/// Checks a template as an import does: known places only, every word harmless, no word of ours,
/// and short enough once everything is put in at its longest.
pub fn check(template: &str, arch: Arch, native: bool, has_rootfs: bool) -> Result<(), CmdlineError> {
    // The longest values that can be put in.
    let longest = CmdlineInput {
        server: ServerAddr { ip: std::net::Ipv4Addr::BROADCAST, http_port: u16::MAX },
        mac: Mac([0xff; 6]),
        boot: AttemptId(u64::MAX),
        token: &"t".repeat(64),
        args: &[],
        config: Some(Digest([0; 32])),
        roots: Roots::Stream,
    };
    let hex = "0".repeat(64);
    let rootfs = has_rootfs.then_some(hex.as_str());
    let word = format!("pristine.image={hex}");
    fill(template, arch, MAX_INITRAMFS, native.then_some(word.as_str()), rootfs, &longest).map(drop)
}

/// True where the system's own initramfs fetches its root from here.
pub fn fetches_root(template: &str) -> bool {
    template.contains("{rootfs_url}") || template.contains("{iso_url}")
}

/// The command line with which the kernel and initramfs of `image` wait for an assignment.
pub fn for_waiting(image: &Image, input: &CmdlineInput<'_>) -> Result<String, CmdlineError> {
    let manifest = &image.manifest;
    let rootfs = manifest.rootfs.map(|r| r.blob.digest.to_string());
    let own = Some("pristine.discover");
    fill(&manifest.cmdline, manifest.arch, manifest.initramfs.len(), own, rootfs.as_deref(), input)
}

/// The command line for one boot of `image`: single blanks between words, nothing that a boot loader
/// would expand.
pub fn for_boot(image: &Image, input: &CmdlineInput<'_>) -> Result<String, CmdlineError> {
    let manifest = &image.manifest;
    let rootfs = manifest.rootfs.map(|r| r.blob.digest.to_string());
    let word = format!("pristine.image={}", image.digest);
    let own = manifest.native.then_some(word.as_str());
    fill(&manifest.cmdline, manifest.arch, manifest.initramfs.len(), own, rootfs.as_deref(), input)
}

/// `own` says to our `init` what it is to do; `None` for a foreign initramfs, which gets no words of ours.
fn fill(
    template: &str,
    arch: Arch,
    initrds: usize,
    own: Option<&str>,
    rootfs: Option<&str>,
    input: &CmdlineInput<'_>,
) -> Result<String, CmdlineError> {
    let server = input.server.base_url();
    let bootif = format!("01-{}", input.mac.hyphenated());
    // An open quote would swallow what follows, our own words among them.
    if template.matches('"').count() % 2 == 1 {
        return Err(CmdlineError::LoneQuote);
    }
    // EFI builds of iPXE from before 2020 hand the kernel its initramfs under this name only.
    let mut words: Vec<String> = (0..initrds).map(|nth| format!("initrd={}", initrd_name(nth))).collect();
    // The name's ending is what live-boot, casper and dracut tell by what they get. The boot attempt goes in front
    // of it, not behind a question mark, which would be a part of the ending.
    let root_url = |place, name| {
        let digest = rootfs.ok_or(CmdlineError::NoRootfs(place))?;
        Ok(format!("{server}/blobs/{digest}/{}/{name}", input.boot))
    };
    for word in template.split_ascii_whitespace() {
        let known = |name: &str| {
            Ok(match name {
                "server" => server.clone(),
                "rootfs_url" => root_url("rootfs_url", "rootfs.squashfs")?,
                "iso_url" => root_url("iso_url", "rootfs.iso")?,
                "mac" => input.mac.to_string(),
                "bootif" => bootif.clone(),
                "boot" => input.boot.to_string(),
                other => return Err(CmdlineError::UnknownPlace(other.chars().take(40).collect())),
            })
        };
        // Before anything is put in: a template can't make an operator out of a value.
        plain(word)?;
        let word = put_in(word, known)?;
        if is_ours(&word) || (own.is_some() && word.starts_with("BOOTIF=")) {
            return Err(CmdlineError::Reserved(word));
        }
        plain(&word)?;
        words.push(word);
    }
    for word in input.args {
        check_argument(word)?;
        words.push(word.clone());
    }
    if let Some(what) = own {
        let token_ok = (16..=64).contains(&input.token.len())
            && input.token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !token_ok {
            return Err(CmdlineError::BadToken);
        }
        // A kernel that panics before init runs would wait for ever: init can't have set it yet.
        if !words.iter().any(|word| word.starts_with("panic=")) {
            words.push(PANIC.to_owned());
        }
        words.push(format!("pristine.server={server}"));
        words.push(what.to_owned());
        words.push(format!("pristine.boot={}", input.boot));
        words.push(format!("pristine.token={}", input.token));
        if input.roots == Roots::Stream {
            words.push("pristine.root=stream".to_owned());
        }
        words.extend(input.config.map(|digest| format!("pristine.config={}", digest.short())));
        words.push(format!("BOOTIF={bootif}"));
    }
    let line = words.join(" ");
    let (have, max) = (KERNEL_NAME.len() + 1 + line.len(), max_len(arch));
    if have > max { Err(CmdlineError::TooLong { have, max, arch }) } else { Ok(line) }
}

fn is_ours(word: &str) -> bool {
    word.starts_with("pristine.") && !word.starts_with("pristine.test.")
}

/// Whether a word can be put on a machine's command line as it stands.
pub fn check_argument(word: &str) -> Result<(), CmdlineError> {
    plain(word)?;
    if word.matches('"').count() % 2 == 1 {
        return Err(CmdlineError::LoneQuote);
    }
    if is_ours(word) || word.starts_with("BOOTIF=") || word.starts_with("initrd=") {
        return Err(CmdlineError::Reserved(word.chars().take(60).collect()));
    }
    Ok(())
}

fn plain(word: &str) -> Result<(), CmdlineError> {
    if is_plain_word(word) { Ok(()) } else { Err(CmdlineError::BadWord(word.chars().take(60).collect())) }
}

fn put_in(word: &str, value: impl Fn(&str) -> Result<String, CmdlineError>) -> Result<String, CmdlineError> {
    let lone = || CmdlineError::LoneBrace(word.chars().take(60).collect());
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, tail) = after.split_once('}').ok_or_else(lone)?;
        if before.contains('}') {
            return Err(lone());
        }
        out.push_str(before);
        out.push_str(&value(name)?);
        rest = tail;
    }
    if rest.contains('}') {
        return Err(lone());
    }
    out.push_str(rest);
    Ok(out)
}
