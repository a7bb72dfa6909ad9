//! `pristine image …`: offline commands against the state folder. A running service sees what they
//! change, since the store is files.

use super::{Context, Failure, Outcome};
use crate::image::initramfs::{self, InitramfsError, Nics, Recipe};
use clap::{Args, Subcommand};
use serde_json::json;
use std::{fs::File, io::BufWriter, path::PathBuf};

/// Images in the store.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build the native initramfs: Pristine's init and the kernel's own modules.
    Initramfs(InitramfsArgs),
}

/// Arguments of `image initramfs`.
#[derive(Debug, Args)]
pub struct InitramfsArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What goes into an initramfs.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Folder lib/modules/VERSION of the image's kernel, after depmod.
    #[arg(long, value_name = "DIR")]
    modules: PathBuf,
    /// The static pristine-init [default: beside pristine, else /usr/lib/pristine/pristine-init].
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Which NIC drivers.
    #[arg(long, value_enum, default_value_t)]
    nics: Nics,
    /// Another module to put in, by name; repeatable.
    #[arg(long = "module", value_name = "NAME")]
    extra: Vec<String>,
    /// Leave it uncompressed: larger on the wire, no unpacking on the machine.
    #[arg(long)]
    no_gzip: bool,
}

impl RecipeArgs {
    fn recipe(&self) -> Result<Recipe, InitramfsError> {
        Ok(Recipe {
            modules: self.modules.clone(),
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

impl Image {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Image::Initramfs(args) => build_initramfs(&args, context),
        }
    }
}

fn build_initramfs(args: &InitramfsArgs, context: &Context) -> Outcome {
    let recipe = args.recipe.recipe()?;
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
            "{}: init and {} modules for kernel {}, {size} bytes ({} unpacked)\n",
            args.out.display(),
            built.modules,
            built.kernel_version,
            built.unpacked
        )
    })
}
