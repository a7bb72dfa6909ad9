//! `pristine image initramfs`, and the arguments that it shares with what else builds one.

use super::mib;
use crate::{
    cli::{Context, Failure, Outcome},
    image::initramfs::{self, InitramfsError, Nics, Recipe},
};
use clap::Args;
use serde_json::json;
use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

/// Arguments of `image initramfs`.
#[derive(Debug, Args)]
pub struct InitramfsArgs {
    /// Folder lib/modules/VERSION of the image's kernel, after depmod
    #[arg(long, value_name = "DIR")]
    modules: PathBuf,
    #[command(flatten)]
    init: InitArgs,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What goes into an initramfs besides the modules.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The static pristine-init [default: beside pristine, else /usr/lib/pristine/pristine-init]
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Which NIC drivers go into the initramfs
    #[arg(long, value_enum, default_value_t)]
    nics: Nics,
    /// Another module for the initramfs, by name; repeatable
    #[arg(long = "module", value_name = "NAME")]
    extra: Vec<String>,
    /// Leave the initramfs uncompressed: larger on the wire, no unpacking on the machine
    #[arg(long)]
    no_gzip: bool,
}

impl InitArgs {
    pub(super) fn recipe(&self, modules: &Path) -> Result<Recipe, InitramfsError> {
        Ok(Recipe {
            modules: modules.to_owned(),
            init: match &self.init {
                Some(path) => path.clone(),
                None => initramfs::default_init()?,
            },
            nics: self.nics,
            extra: self.extra.clone(),
            gzip: !self.no_gzip,
        })
    }
}

pub(super) fn run(args: &InitramfsArgs, context: &Context) -> Outcome {
    let recipe = args.init.recipe(&args.modules)?;
    let write = |e| Failure::text(format!("can't write {}: {e}", args.out.display()));
    let file = File::create(&args.out).map_err(write)?;
    let built = initramfs::build(&recipe, BufWriter::new(&file));
    if built.is_err() {
        // Half an initramfs would panic the kernel that unpacks it.
        let _ = std::fs::remove_file(&args.out);
    }
    let built = built?;
    let size = file.metadata().map_err(write)?.len();
    let value = json!({ "file": args.out, "size": size, "unpacked": built.unpacked,
        "modules": built.modules, "kernel_version": built.kernel_version });
    context.show(&value, || {
        format!(
            "{}: init and {} modules for kernel {}, {} ({} unpacked)\n",
            args.out.display(),
            built.modules,
            built.kernel_version,
            mib(size),
            mib(built.unpacked)
        )
    })
}
