//! `pristine image diff`: a summary first, then what is behind its numbers.

use crate::{
    cli::{Context, Outcome, table::Table, text},
    image::{
        diff::{
            self, Diff, Pair, RootDiff,
            files::{ChangedFile, Facts, Files, KindName, Named, What},
            packages::{Packages, Way},
        },
        progress::OnStderr,
    },
    model::BlobRef,
    store::ImageStore,
};
use clap::Args;
use std::fmt::Write as _;

/// Lines of one list without `--all`.
const SHOWN: usize = 20;

/// Arguments of `image diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// What machines come from: name:version, a digest, or the first 8 or more of its digits
    old: String,
    /// What they go to
    new: String,
    /// Every package and file, not the first 20 of each list (--json always has all)
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: &DiffArgs, store: &ImageStore, context: &Context) -> Outcome {
    let (old, new) = (store.resolve(&args.old)?, store.resolve(&args.new)?);
    let diff = diff::diff(store, &old, &new, &OnStderr);
    context.show(&diff, || {
        let mut out = summary(&diff);
        if let RootDiff::Compared { packages, files } = &diff.root {
            let limit = if args.all { usize::MAX } else { SHOWN };
            list_packages(packages, limit, &mut out);
            list_files(files, args.all, limit, &mut out);
        }
        out
    })
}

fn summary(diff: &Diff) -> String {
    let mut table = Table::new(&["", &diff.old.tag.to_string(), "", &diff.new.tag.to_string()]);
    let mut row = |name: &str, old: &str, new: &str, changed: bool| {
        let (sign, new) = if changed { ("→", new) } else { ("", "the same") };
        table.row([name, old, sign, new]);
    };
    row("image", &diff.old.digest.short(), &diff.new.digest.short(), diff.old.digest != diff.new.digest);
    let mut pair = |name: &str, pair: &Pair<String>| row(name, &pair.old, &pair.new, pair.changed);
    let map =
        |p: &Pair<_>, f: &dyn Fn(&_) -> String| Pair { old: f(&p.old), new: f(&p.new), changed: p.changed };
    pair(
        "kernel",
        &map(&diff.kernel, &|k: &diff::Kernel| {
            let version =
                k.version.as_deref().and_then(|v| v.split_whitespace().next()).unwrap_or("unknown version");
            format!("{version} ({})", k.blob.digest.short())
        }),
    );
    let archives = |blobs: &Vec<BlobRef>| match blobs.as_slice() {
        [] => "none".to_owned(),
        blobs => blobs
            .iter()
            .map(|b| format!("{} ({})", text::size(b.size), b.digest.short()))
            .collect::<Vec<_>>()
            .join(", "),
    };
    pair(
        "initramfs",
        &Pair {
            old: archives(&diff.initramfs.old),
            new: archives(&diff.initramfs.new),
            changed: diff.initramfs.changed,
        },
    );
    if diff.arch.changed {
        pair("arch", &Pair { old: diff.arch.old.to_string(), new: diff.arch.new.to_string(), changed: true });
    }
    if diff.native.changed {
        let word =
            |native| if native { "native: verifies the root" } else { "foreign: doesn't verify the root" };
        pair(
            "init",
            &Pair { old: word(diff.native.old).into(), new: word(diff.native.new).into(), changed: true },
        );
    }
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "none".to_owned(), text::size);
    let rootfs = &diff.sizes.rootfs;
    let same_root = matches!(diff.root, RootDiff::Same);
    let new_root =
        if rootfs.changed { size(rootfs.new) } else { format!("{}, other bytes", size(rootfs.new)) };
    pair("rootfs", &Pair { old: size(rootfs.old), new: new_root, changed: !same_root });
    let total = &diff.sizes.total;
    pair("total", &Pair { old: text::size(total.old), new: text::size(total.new), changed: total.changed });
    let mut out = table.render();
    let mut line = |name: &str, words: String| {
        let _ = writeln!(out, "{name:<9}  {}", text::clean(&words));
    };
    line("new bytes", format!("{} that {} lacks", text::size(diff.sizes.new_bytes), diff.old.tag));
    line("cmdline", cmdline(&diff.cmdline));
    for (sign, key, value) in labels(diff) {
        line("label", format!("{sign}{key}={value}"));
    }
    match &diff.root {
        RootDiff::Same => {
            line("contents", "the same root filesystem: packages and files are the same".into())
        }
        RootDiff::Unknown { why } => line("contents", format!("can't be compared: {why}")),
        RootDiff::Compared { packages, files } => {
            line("packages", packages_in_words(packages));
            line("files", files_in_words(files));
        }
    }
    out
}

/// The words that went and came; all of both where only their order changed.
fn cmdline(pair: &Pair<String>) -> String {
    if !pair.changed {
        return format!("the same: {}", pair.new);
    }
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (words(&pair.old), words(&pair.new));
    let gone = old.iter().filter(|w| !new.contains(w)).map(|w| format!("-{w}"));
    let come = new.iter().filter(|w| !old.contains(w)).map(|w| format!("+{w}"));
    let all: Vec<String> = gone.chain(come).collect();
    if all.is_empty() { format!("{} → {}", pair.old, pair.new) } else { all.join(" ") }
}

fn labels(diff: &Diff) -> Vec<(char, &str, &str)> {
    let (old, new) = (&diff.labels.old, &diff.labels.new);
    let gone = old.iter().filter(|(k, v)| new.get(*k) != Some(v)).map(|(k, v)| ('-', k.as_str(), v.as_str()));
    let come = new.iter().filter(|(k, v)| old.get(*k) != Some(v)).map(|(k, v)| ('+', k.as_str(), v.as_str()));
    gone.chain(come).collect()
}

fn packages_in_words(p: &Packages) -> String {
    let count = |way| p.changed.iter().filter(|c| c.way == way).count();
    let counts = [
        (count(Way::Upgraded), "upgraded"),
        (count(Way::Downgraded), "DOWNGRADED"),
        (count(Way::Changed), "changed"),
        (p.added.len(), "added"),
        (p.removed.len(), "removed"),
        (p.same, "the same"),
    ];
    let words = counted(&counts);
    match (words.is_empty(), p.unread.is_empty()) {
        (true, true) => "no package database in either image".into(),
        (true, false) => "can't be compared, see below".into(),
        (false, true) => words,
        (false, false) => format!("{words}; not all could be read, see below"),
    }
}

fn files_in_words(f: &Files) -> String {
    let words =
        counted(&[(f.added.len(), "added"), (f.removed.len(), "removed"), (f.changed.len(), "changed")]);
    if words.is_empty() { "the same".into() } else { words }
}

fn counted(counts: &[(usize, &str)]) -> String {
    let some = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}"));
    some.collect::<Vec<_>>().join(", ")
}

/// A list under its head; past `limit` lines it says how many more there are.
fn list(out: &mut String, head: &str, lines: impl ExactSizeIterator<Item = String>, limit: usize) {
    let all = lines.len();
    if all == 0 {
        return;
    }
    let _ = writeln!(out, "\n{head}");
    for line in lines.take(limit) {
        let _ = writeln!(out, "  {}", text::clean(&line));
    }
    if all > limit {
        let _ = writeln!(out, "  … {} more: --all shows them", all - limit);
    }
}

fn list_packages(p: &Packages, limit: usize, out: &mut String) {
    list(out, "Package databases that can't be read", p.unread.iter().cloned(), usize::MAX);
    let ways = [
        (Way::Downgraded, "Packages DOWNGRADED"),
        (Way::Upgraded, "Packages upgraded"),
        (Way::Changed, "Packages changed"),
    ];
    for (way, head) in ways {
        let lines: Vec<String> = p
            .changed
            .iter()
            .filter(|c| c.way == way)
            .map(|c| {
                let arch =
                    |arch: &str| if c.old_arch == c.new_arch { String::new() } else { format!(" ({arch})") };
                format!("{}  {}{} → {}{}", c.name, c.old, arch(&c.old_arch), c.new, arch(&c.new_arch))
            })
            .collect();
        list(out, head, lines.into_iter(), limit);
    }
    for (packages, head) in [(&p.added, "Packages added"), (&p.removed, "Packages removed")] {
        list(out, head, packages.iter().map(|p| format!("{}  {}", p.name, p.version)), limit);
    }
}

fn list_files(f: &Files, all: bool, limit: usize, out: &mut String) {
    for (named, head) in [(&f.added, "Files added"), (&f.removed, "Files removed")] {
        let lines = if all { named.iter().map(|n| one(n, 0)).collect() } else { folded(named) };
        list(out, head, lines.into_iter(), limit);
    }
    list(out, "Files changed", f.changed.iter().map(changed), limit);
}

fn one(named: &Named, within: usize) -> String {
    let facts = &named.facts;
    match facts.kind {
        KindName::Folder if within > 0 => format!("{}/  with all {within} within", named.path),
        KindName::Folder => format!("{}/", named.path),
        KindName::File => format!("{}  {}", named.path, text::size(facts.size.unwrap_or(0))),
        KindName::Link => format!("{} → {}", named.path, facts.target.as_deref().unwrap_or("")),
        kind => format!("{}  {}", named.path, kind.word()),
    }
}

/// One line for a folder that came or went with all that is in it.
fn folded(named: &[Named]) -> Vec<String> {
    // A folder's names right behind it: by the bytes of paths `a-b` stands between `a` and `a/c`.
    let mut named: Vec<&Named> = named.iter().collect();
    named.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    let mut lines: Vec<(&Named, usize)> = Vec::new();
    for next in named {
        match lines.last_mut() {
            Some((folder, within))
                if folder.facts.kind == KindName::Folder
                    && next.path.strip_prefix(&folder.path).is_some_and(|rest| rest.starts_with('/')) =>
            {
                *within += 1;
            }
            _ => lines.push((next, 0)),
        }
    }
    lines.into_iter().map(|(named, within)| one(named, within)).collect()
}

fn changed(file: &ChangedFile) -> String {
    let (old, new) = (&file.old, &file.new);
    let size = |facts: &Facts| text::size(facts.size.unwrap_or(0));
    let owner = |facts: &Facts| format!("{}:{}", facts.uid, facts.gid);
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    let words = file.what.iter().filter_map(|what| {
        Some(match what {
            What::Kind => format!("{} → {}", old.kind.word(), new.kind.word()),
            What::Size => format!("content {} → {}", size(old), size(new)),
            What::Content if file.what.contains(&What::Size) => return None,
            What::Content => "content".into(),
            What::Target => format!("target {} → {}", said(&old.target), said(&new.target)),
            What::Device => format!("device {} → {}", said(&old.device), said(&new.device)),
            What::Mode => format!("mode {} → {}", old.mode, new.mode),
            What::Owner => format!("owner {} → {}", owner(old), owner(new)),
            What::Xattr => format!("xattr {}", file.xattrs.join(" ")),
        })
    });
    format!("{}  {}", file.path, words.collect::<Vec<_>>().join(", "))
}
