//! `pristine image …`: offline commands against the state folder. A running service sees what they
//! change, since the store is files. One file a command.

mod archive;
mod build;
mod diff;

mod gc;
mod import;
mod initramfs;
mod list;
mod preset;
mod push;
mod rm;
mod scrub;
mod sign;
mod verify;

use super::{Context, Outcome};
use crate::store::{ImageStore, trust::TrustFiles};
use clap::Subcommand;

/// Images in the store.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Make an image of a root: a folder, a tar archive, an OCI image or a recipe, with a kernel in it
    Build(Box<build::BuildArgs>),
    /// Make an image of a kernel, an initramfs and a squashfs, or take one from an archive
    Import(Box<import::ImportArgs>),
    /// Every image
    List,
    /// One image in full
    Show {
        /// name:version, a digest, or the first 8 or more of its digits
        image: String,
        /// Print its manifest, byte by byte: what a signature is over
        #[arg(long)]
        manifest: bool,
    },
    /// Write an image as one archive, for another site
    Export(archive::ExportArgs),
    /// Send an image to a running service: what it lacks, gone on with after a cut
    Push(push::PushArgs),
    /// What differs between two images: packages, files, kernel, command line, sizes
    Diff(diff::DiffArgs),
    /// Read everything again and name what is damaged
    Verify {
        /// Only these images
        images: Vec<String>,
        /// Look at signatures instead: does a trusted key vouch for each image?
        #[arg(long)]
        signature: bool,
    },
    /// Sign an image: the bytes of its manifest, which everything in it hangs on
    Sign(sign::SignArgs),
    /// Remove an image that no machine is pinned to or runs
    Rm {
        /// name:version, a digest, or the first 8 or more of its digits
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Read the whole store from the disk again, slowly; what is damaged is not served until it is whole
    Scrub {
        /// At most so many MiB a second, 0: as fast as the disk [default: images.scrub_rate]
        #[arg(long, value_name = "MIB")]
        rate: Option<u32>,
    },
    /// Free what removed images left in packs that others need too; without --run it only tells
    Gc {
        /// Do it
        #[arg(long)]
        run: bool,
    },
    /// Systems whose files and command line an import knows
    #[command(subcommand)]
    Preset(preset::Presets),
    /// Build the native initramfs: Pristine's init and the kernel's own modules
    Initramfs(initramfs::InitramfsArgs),
}

impl Image {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Image::Initramfs(args) => return initramfs::run(&args, context),
            Image::Preset(presets) => return presets.run(context),
            _ => {}
        }
        let config = context.config()?;
        let (state_dir, usual, discover) =
            (config.state_dir, config.images.scrub_rate, config.discover_image);
        let store_dir = state_dir.join("store");
        let to_write = || ImageStore::open(&store_dir);
        let to_read = || ImageStore::open_read_only(&store_dir);
        match self {
            Image::Build(args) => build::run(&args, &to_write()?, context),
            Image::Import(args) => import::run(*args, &to_write()?, context),
            Image::List => list::list(&to_read(), context),
            Image::Show { image, manifest: true } => list::manifest(&image, &to_read()),
            Image::Show { image, .. } => list::show(&image, &to_read(), context),
            Image::Export(args) => archive::export(&args, &to_read(), context),
            Image::Push(args) => push::run(&args, &to_read(), context),
            Image::Diff(args) => diff::run(&args, &to_read(), context),
            Image::Verify { images, signature } => {
                let store = to_read();
                let entries = verify::chosen(&images, &store)?;
                match signature {
                    true => sign::verify(&entries, &TrustFiles::at(&state_dir), &store, context),
                    false => verify::run(&entries, &store, context),
                }
            }
            Image::Sign(args) => sign::run(&args, &TrustFiles::at(&state_dir), &to_write()?, context),
            Image::Rm { images } => rm::run(&images, discover.as_deref(), &state_dir, &to_write()?, context),
            Image::Scrub { rate } => scrub::run(rate.unwrap_or(usual), &state_dir, &to_write()?, context),
            Image::Gc { run: false } => gc::run(false, &to_read(), context),
            Image::Gc { run: true } => gc::run(true, &to_write()?, context),
            Image::Initramfs(_) | Image::Preset(_) => Ok(()),
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
