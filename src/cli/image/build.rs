//! `pristine image build`.

use super::{
    import::{arch, label},
    initramfs::InitArgs,
};
use crate::{
    cli::{Context, Failure, Outcome},
    image::{
        build::{self, Made, Plan, Source, check, recipe::Recipe},
        import::{self, Import},
        progress::OnStderr,
        source::{Devices, Options, Owners, Platform},
    },
    model::{Arch, Tag},
    store::ImageStore,
};
use clap::Args;
use serde_json::json;
use std::{collections::BTreeMap, path::PathBuf};

/// What a server's kernel is told where nobody says anything else: both consoles.
const CMDLINE: &str = "console=tty0 console=ttyS0,115200";

/// Arguments of `image build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// A folder with a root, a tar archive, an OCI image (a folder in OCI layout, an archive of one, what `docker
    /// save` writes), or a recipe: a folder with a recipe.toml
    source: PathBuf,
    /// What the image is, as in web
    #[arg(long)]
    name: String,
    /// Which one, as in 2 or 2026-11-22
    #[arg(long)]
    version: String,
    /// Kernel command line; {server}, {rootfs_url}, {mac}, {bootif} and {boot} are put in for each boot
    /// [default: the recipe's, else console=tty0 console=ttyS0,115200]
    #[arg(long, allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Label, as key=value; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Which of the root's kernels, by what `uname -r` says on it [default: the newest]
    #[arg(long, value_name = "RELEASE")]
    kernel_version: Option<String>,
    /// What the kernel must be for [default: what it is for]
    #[arg(long, value_parser = arch)]
    arch: Option<Arch>,
    /// Which of an OCI image's platforms, as in linux/arm64 [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    /// Which image, by its name, where an OCI source holds several
    #[arg(long = "ref", value_name = "NAME")]
    reference: Option<String>,
    /// Device nodes: in-dev (kept below /dev, refused elsewhere), keep, skip or refuse
    #[arg(long, value_name = "WHAT", default_value = "in-dev")]
    devices: Devices,
    /// Root owns all: for a folder that a user unpacked or made
    #[arg(long)]
    all_root: bool,
    /// Keep kernels, initramfs and symbol tables in /boot: a machine has its own from the server, and the root in
    /// its memory
    #[arg(long)]
    keep_boot: bool,
    #[command(flatten)]
    init: InitArgs,
    /// Build twice, the second time from scratch in another folder, and keep the image only if both are the same;
    /// else say which files differ
    #[arg(long)]
    check: bool,
    /// Let the tag point to this image where it points to another; pins keep the old one
    #[arg(long)]
    move_tag: bool,
}

impl BuildArgs {
    fn plan(&self) -> Result<Plan, Failure> {
        let mut options = Options { devices: self.devices, ..Options::default() };
        options.reference.clone_from(&self.reference);
        if let Some(platform) = &self.platform {
            options.platform = platform.clone();
        }
        if self.all_root {
            options.owners = Owners::AllRoot;
        }
        let (clamp, cmdline) = (source_date_epoch()?, self.cmdline.clone());
        let (source, clamp_mtime, cmdline) = match Recipe::open(&self.source)? {
            Some(recipe) => {
                if self.platform.is_some() || self.reference.is_some() || self.all_root {
                    return Err(Failure::Usage(
                        "--platform, --ref and --all-root are for other sources: a recipe makes a root for this machine's architecture, with owners as packages say"
                            .into(),
                    ));
                }
                let clamp = clamp.unwrap_or(recipe.epoch());
                let cmdline = cmdline.or_else(|| recipe.cmdline().map(str::to_owned));
                (Source::Recipe(Box::new(recipe)), Some(clamp), cmdline)
            }
            None => (Source::Path(self.source.clone()), clamp, cmdline),
        };
        Ok(Plan {
            source,
            tag: Tag::new(&self.name, &self.version)?,
            options,
            kernel_version: self.kernel_version.clone(),
            native: self.init.native()?,
            cmdline: cmdline.unwrap_or_else(|| CMDLINE.to_owned()),
            clamp_mtime,
            keep_boot: self.keep_boot,
        })
    }

    fn import(&self, made: &Made, plan: &Plan) -> Import {
        let mut labels = match &plan.source {
            Source::Recipe(recipe) => recipe.labels().clone(),
            Source::Path(_) => BTreeMap::new(),
        };
        labels.extend(self.labels.iter().cloned());
        Import {
            tag: plan.tag.clone(),
            arch: self.arch,
            kernel: made.kernel.clone(),
            initramfs: vec![made.initramfs.clone()],
            build_initramfs: None,
            rootfs: Some(made.rootfs.clone()),
            cmdline: plan.cmdline.clone(),
            labels,
            provenance: made.provenance.clone(),
            foreign: false,
            move_tag: self.move_tag,
        }
    }
}

/// What reproducible builds are told by (reproducible-builds.org, `SOURCE_DATE_EPOCH`): no later time is kept.
fn source_date_epoch() -> Result<Option<i64>, Failure> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let time = text.to_str().and_then(|text| text.parse().ok()).filter(|time| *time >= 0);
    let wrong = || Failure::Usage(format!("SOURCE_DATE_EPOCH is {text:?}: it must be seconds since 1970"));
    time.map(Some).ok_or_else(wrong)
}

pub(super) fn run(args: &BuildArgs, store: &ImageStore, context: &Context) -> Outcome {
    let plan = args.plan()?;
    let made = build::make(&plan, &OnStderr)?;
    if !context.json {
        made.notes.iter().for_each(|note| eprintln!("note: {note}"));
    }
    if args.check {
        let differences = check::again(&plan, &made, &OnStderr)?;
        if !differences.is_empty() {
            let list = differences.join("\n  ");
            return Err(Failure::text(format!(
                "two builds of it differ, so that it can't be had again; nothing was kept. What differs:\n  {list}"
            )));
        }
    }
    let done = import::import(store, &args.import(&made, &plan), &OnStderr)?;
    let (tag, published) = (&done.manifest.tag, &done.published);
    let value = json!({
        "digest": published.digest, "tag": tag, "existed": published.existed, "moved_from": published.moved_from,
        "notes": made.notes,
    });
    context.show(&value, || super::import::outcome(tag, published))
}
