//! `pristine image initramfs`, and the arguments that it shares with what else builds one.

use super::mib;
use crate::{
    cli::{Context, Failure, Outcome, text::parse_time},
    image::{
        build::Native,
        initramfs::{self, Nics, Recipe},
        modules::ModulesFrom,
        packing::Packing,
        signing,
    },
    model::Tag,
};
use clap::Args;
use pristine_signature::{Allowed, Carried};
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
    /// Carry this public key (a file, or the key itself) in the initramfs, which then boots only images that a
    /// key it carries signed; repeatable
    #[arg(long = "trusted-key", value_name = "FILE|KEY")]
    trusted_keys: Vec<String>,
    /// Which images those keys may vouch for: a name, or * for any, signed at TIME or later; repeatable
    /// [default: any, whenever signed]
    #[arg(long = "trusted-image", value_name = "NAME[=TIME]", value_parser = allowed, requires = "trusted_keys")]
    trusted_images: Vec<Allowed>,
    /// How to pack the initramfs; auto: as well as the kernel's configuration says that it unpacks, else gzip
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    compress: Compress,
}

/// How to pack an initramfs.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Compress {
    #[default]
    Auto,
    Zstd,
    Xz,
    Gzip,
    None,
}

impl InitArgs {
    /// For modules in a folder.
    pub(super) fn recipe(&self, modules: &Path) -> Result<Recipe, Failure> {
        Ok(Recipe {
            modules: ModulesFrom::Folder(modules.to_owned()),
            init: self.init()?,
            nics: self.nics,
            storage: false,
            extra: self.extra.clone(),
            carried: self.carried()?,
            packing: self.packing().unwrap_or(Packing::Gzip),
        })
    }

    /// For a kernel and modules that are yet to be found.
    pub(super) fn native(&self) -> Result<Native, Failure> {
        Ok(Native {
            init: self.init()?,
            nics: self.nics,
            extra: self.extra.clone(),
            carried: self.carried()?,
            packing: self.packing(),
        })
    }

    fn init(&self) -> Result<PathBuf, Failure> {
        Ok(match &self.init {
            Some(path) => path.clone(),
            None => initramfs::default_init()?,
        })
    }

    /// `None` where the kernel is to tell.
    fn packing(&self) -> Option<Packing> {
        match self.compress {
            Compress::Auto => None,
            Compress::Zstd => Some(Packing::Zstd),
            Compress::Xz => Some(Packing::Xz),
            Compress::Gzip => Some(Packing::Gzip),
            Compress::None => Some(Packing::Plain),
        }
    }

    fn carried(&self) -> Result<Option<Carried>, Failure> {
        if self.trusted_keys.is_empty() {
            return Ok(None);
        }
        let keys = self.trusted_keys.iter().map(|k| signing::public_key(k)).collect::<Result<_, _>>()?;
        Ok(Some(Carried { keys, images: self.trusted_images.clone() }))
    }
}

/// `web`, `*`, `web=2026-11-01`.
fn allowed(text: &str) -> Result<Allowed, String> {
    let (name, time) = text.split_once('=').map_or((text, None), |(name, time)| (name, Some(time)));
    if name != "*" {
        Tag::new(name, "1").map_err(|e| e.to_string())?;
    }
    let time = time.map(parse_time).transpose()?.unwrap_or(0);
    let not_before = u64::try_from(time / 1000).map_err(|_| "a time after 1970 is needed")?;
    Ok(Allowed { name: name.to_owned(), not_before })
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
