//! `pristine image import`.

use super::{archive, initramfs::InitArgs, preset::by_name};
use crate::{
    cli::{Context, Failure, Outcome},
    image::{
        import::{self, Import},
        input::Input,
        live::{self, Folder, Found, IsoFile, Listing as _},
        progress::OnStderr,
    },
    model::{Arch, Tag},
    store::{ImageStore, images::Published},
};
use clap::Args;
use serde_json::json;
use std::{collections::BTreeMap, path::PathBuf};

/// Arguments of `image import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// An archive that `image export` wrote: all of an image, its name too
    #[arg(value_name = "FILE.pristine-archive", conflicts_with_all = [
        "name", "version", "kernel", "initramfs", "modules", "rootfs", "live", "preset", "dir", "cmdline", "arch", "labels", "foreign",
    ])]
    archive: Option<PathBuf>,
    /// What the image is, as in web
    #[arg(long, required_unless_present = "archive")]
    name: Option<String>,
    /// Which one, as in 2 or 2026-11-22
    #[arg(long, required_unless_present = "archive")]
    version: Option<String>,
    /// Linux kernel: bzImage, Image or EFI stub
    #[arg(long, value_name = "FILE", required_unless_present_any = ["archive", "live", "dir"])]
    kernel: Option<PathBuf>,
    /// Initramfs; repeatable, in the order in which they are joined
    #[arg(long, value_name = "FILE")]
    initramfs: Vec<PathBuf>,
    /// Build the initramfs from this folder lib/modules/VERSION, see `image initramfs`
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    #[command(flatten)]
    init: InitArgs,
    /// Root file system: a squashfs
    #[arg(long, value_name = "FILE")]
    rootfs: Option<PathBuf>,
    /// A live ISO: tells what it is and takes its files and command line; implies --foreign
    #[arg(long, value_name = "FILE.iso", conflicts_with_all = ["kernel", "initramfs", "modules", "rootfs", "dir"])]
    live: Option<PathBuf>,
    /// Take command line and file names of a known system, see `image preset list`; implies --foreign
    #[arg(long, value_name = "NAME", conflicts_with = "modules")]
    preset: Option<String>,
    /// The folder that holds the preset's files
    #[arg(long, value_name = "DIR", requires = "preset", conflicts_with_all = ["kernel", "initramfs", "rootfs"])]
    dir: Option<PathBuf>,
    /// Words behind the preset's command line; repeatable
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, conflicts_with = "cmdline")]
    cmdline_extra: Vec<String>,
    /// Kernel command line; {server}, {rootfs_url}, {iso_url}, {mac}, {bootif} and {boot} are put in for each
    /// boot
    #[arg(long, allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// What the kernel must be for [default: what it is for]
    #[arg(long, value_parser = arch)]
    arch: Option<Arch>,
    /// Label, as key=value; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// The image brings its own initramfs (live-boot, dracut), which neither verifies the root nor reports
    #[arg(long)]
    foreign: bool,
    /// Let the tag point to this image where it points to another; pins keep the old one
    #[arg(long)]
    move_tag: bool,
}

pub(super) fn arch(text: &str) -> Result<Arch, String> {
    match text {
        "x86_64" | "amd64" => Ok(Arch::X86_64),
        "aarch64" | "arm64" => Ok(Arch::Aarch64),
        "riscv64" => Ok(Arch::Riscv64),
        "loongarch64" | "loong64" => Ok(Arch::Loongarch64),
        _ => Err("write x86_64, aarch64, riscv64 or loongarch64".into()),
    }
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value, as in role=web")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What `--live`, `--dir` and `--preset` lead to, and what to say of it.
struct Foreign {
    cmdline: &'static str,
    found: Option<Found>,
    provenance: BTreeMap<String, String>,
    said: Vec<String>,
}

fn foreign(args: &ImportArgs) -> Result<Option<Foreign>, Failure> {
    let preset = args.preset.as_deref().map(by_name).transpose()?;
    let mut provenance = BTreeMap::new();
    let found = match (&args.live, &args.dir, preset) {
        (Some(path), _, preset) => {
            let iso = IsoFile::open(path)?;
            let found = preset.map_or_else(|| live::recognise(&iso), |preset| live::find(&iso, preset))?;
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            provenance.insert("iso".to_owned(), file.into_owned());
            provenance.insert("iso_volume".to_owned(), iso.volume().unwrap_or_default().to_owned());
            Some((iso.shown(), found))
        }
        (None, Some(path), Some(preset)) => {
            let folder = Folder::open(path)?;
            Some((folder.shown(), live::find(&folder, preset)?))
        }
        _ => None,
    };
    let Some(preset) = found.as_ref().map(|(_, found)| found.preset).or(preset) else { return Ok(None) };
    provenance.insert("preset".to_owned(), preset.name.to_owned());
    let mut said = Vec::new();
    if let Some((what, found)) = &found {
        said.push(format!("{what} is {}: {}", preset.name, preset.about));
        let mut file =
            |role: &str, input: &Input| said.push(format!("  {role:<10}{}", input.shown().display()));
        file("kernel", &found.kernel);
        file("initramfs", &found.initramfs);
        found.rootfs.iter().for_each(|root| file("root", root));
        said.extend(found.notes.iter().map(|note| format!("  note      {note}")));
    }
    said.push(format!("  verified  on the machine, by itself: {}", preset.verifies));
    Ok(Some(Foreign { cmdline: preset.cmdline, found: found.map(|(_, found)| found), provenance, said }))
}

pub(super) fn run(args: ImportArgs, store: &ImageStore, context: &Context) -> Outcome {
    if let Some(archive) = &args.archive {
        return archive::import(archive, args.move_tag, store, context);
    }
    let (Some(name), Some(version)) = (&args.name, &args.version) else {
        return Err(Failure::Usage("give --name and --version, or an archive".into()));
    };
    let build_initramfs = args.modules.as_deref().map(|dir| args.init.recipe(dir)).transpose()?;
    let foreign = foreign(&args)?;
    if foreign.is_none() && !args.cmdline_extra.is_empty() {
        return Err(Failure::Usage(
            "--cmdline-extra adds to a preset's command line: give --preset or --live".into(),
        ));
    }
    let template = args.cmdline.clone().unwrap_or_else(|| {
        let words = foreign.iter().map(|f| f.cmdline).chain(args.cmdline_extra.iter().map(String::as_str));
        words.collect::<Vec<_>>().join(" ")
    });
    let (is_foreign, found, provenance, said) = match foreign {
        Some(foreign) => (true, foreign.found, foreign.provenance, foreign.said),
        None => (args.foreign, None, BTreeMap::new(), Vec::new()),
    };
    let (kernel, initramfs, rootfs) = match (found, args.kernel) {
        (Some(found), _) => (found.kernel, vec![found.initramfs], found.rootfs),
        (None, Some(kernel)) => {
            let initramfs = args.initramfs.into_iter().map(Input::from).collect();
            (kernel.into(), initramfs, args.rootfs.map(Input::from))
        }
        (None, None) => return Err(Failure::Usage("give --kernel, --live or --dir".into())),
    };
    if !said.is_empty() && !context.json {
        eprintln!("{}", said.join("\n"));
    }
    let what = Import {
        tag: Tag::new(name, version)?,
        arch: args.arch,
        kernel,
        initramfs,
        build_initramfs,
        rootfs,
        cmdline: template,
        labels: args.labels.into_iter().collect::<BTreeMap<_, _>>(),
        provenance,
        foreign: is_foreign,
        move_tag: args.move_tag,
    };
    let done = import::import(store, &what, &OnStderr)?;
    let (tag, published) = (&done.manifest.tag, &done.published);
    let value = json!({
        "digest": published.digest, "tag": tag, "existed": published.existed, "moved_from": published.moved_from,
        "preset": done.manifest.provenance.get("preset"),
    });
    context.show(&value, || outcome(tag, published))
}

/// What became of an image, for people.
pub(super) fn outcome(tag: &Tag, published: &Published) -> String {
    match published.moved_from {
        _ if published.existed => format!("{tag} was {} already\n", published.digest),
        Some(old) => format!("{tag} is {} (was {old})\n", published.digest),
        None => format!("{tag} is {}\n", published.digest),
    }
}
