//! `pristine image import`.

use super::initramfs::InitArgs;
use crate::{
    cli::{Context, Outcome},
    image::{
        import::{self, Import},
        progress::OnStderr,
    },
    model::{Arch, Tag},
    store::ImageStore,
};
use clap::Args;
use serde_json::json;
use std::{collections::BTreeMap, path::PathBuf};

/// Arguments of `image import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What the image is, as in web
    #[arg(long)]
    name: String,
    /// Which one, as in 2 or 2026-11-22
    #[arg(long)]
    version: String,
    /// Linux kernel: bzImage, Image or EFI stub
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
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
    /// Kernel command line; {server}, {rootfs_url}, {mac}, {bootif} and {boot} are put in for each boot
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    cmdline: String,
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

pub(super) fn run(args: ImportArgs, store: &ImageStore, context: &Context) -> Outcome {
    let build_initramfs = args.modules.as_deref().map(|dir| args.init.recipe(dir)).transpose()?;
    let what = Import {
        tag: Tag::new(&args.name, &args.version)?,
        arch: args.arch,
        kernel: args.kernel,
        initramfs: args.initramfs,
        build_initramfs,
        rootfs: args.rootfs,
        cmdline: args.cmdline,
        labels: args.labels.into_iter().collect::<BTreeMap<_, _>>(),
        provenance: BTreeMap::new(),
        foreign: args.foreign,
        move_tag: args.move_tag,
    };
    let done = import::import(store, &what, &OnStderr)?;
    let (tag, published) = (&done.manifest.tag, &done.published);
    let value = json!({
        "digest": published.digest, "tag": tag, "existed": published.existed, "moved_from": published.moved_from,
    });
    context.show(&value, || match published.moved_from {
        _ if published.existed => format!("{tag} was {} already\n", published.digest),
        Some(old) => format!("{tag} is {} (was {old})\n", published.digest),
        None => format!("{tag} is {}\n", published.digest),
    })
}
