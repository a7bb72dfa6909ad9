//! `pristine image …`: offline commands against the state folder. A running service sees what they
//! change, since the store is files.

use super::{Context, Failure, Outcome, table::Table};
use crate::{
    image::{
        import::{self, Import},
        initramfs::{self, InitramfsError, Nics, Recipe},
        progress::OnStderr,
        verify,
    },
    model::{Arch, BootTarget, Digest, Image as StoredImage, Machine, Tag},
    store::{
        ImageStore,
        db::Db,
        images::{Entry, Removed},
    },
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

/// Images in the store.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Make an image of a kernel, an initramfs and a squashfs
    Import(Box<ImportArgs>),
    /// Every image
    List,
    /// One image in full
    Show {
        /// name:version, a digest, or the first 8 or more of its digits
        image: String,
    },
    /// Read everything again and name what is damaged
    Verify {
        /// Only these images
        images: Vec<String>,
    },
    /// Remove an image that no machine is pinned to or runs
    Rm {
        /// name:version, a digest, or the first 8 or more of its digits
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Build the native initramfs: Pristine's init and the kernel's own modules
    Initramfs(InitramfsArgs),
}

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
    fn recipe(&self, modules: &Path) -> Result<Recipe, InitramfsError> {
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

fn arch(text: &str) -> Result<Arch, String> {
    match text {
        "x86_64" | "amd64" => Ok(Arch::X86_64),
        "aarch64" | "arm64" => Ok(Arch::Aarch64),
        "riscv64" => Ok(Arch::Riscv64),
        "loongarch64" | "loong64" => Ok(Arch::Loongarch64),
        _ => Err("write x86_64, aarch64, riscv64 or loongarch64".into()),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value, as in role=web")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Image {
    pub(super) fn run(self, context: &Context) -> Outcome {
        if let Image::Initramfs(args) = &self {
            return build_initramfs(args, context);
        }
        let state_dir = context.config()?.state_dir;
        let store_dir = state_dir.join("store");
        match self {
            Image::Import(args) => run_import(*args, &ImageStore::open(&store_dir)?, context),
            Image::List => list(&ImageStore::open_read_only(&store_dir), context),
            Image::Show { image } => show(&image, &ImageStore::open_read_only(&store_dir), context),
            Image::Verify { images } => run_verify(&images, &ImageStore::open_read_only(&store_dir), context),
            Image::Rm { images } => remove(&images, &state_dir, &ImageStore::open(&store_dir)?, context),
            Image::Initramfs(_) => Ok(()),
        }
    }
}

fn run_import(args: ImportArgs, store: &ImageStore, context: &Context) -> Outcome {
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

/// Bytes of all that an image needs.
fn size(image: &StoredImage) -> u64 {
    image.manifest.blobs().map(|b| b.size).sum()
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn kernel_release(image: &StoredImage) -> &str {
    let version = image.manifest.provenance.get("kernel_version");
    version.and_then(|v| v.split_whitespace().next()).unwrap_or("-")
}

fn entry_json(entry: &Entry) -> Value {
    match &entry.image {
        Ok(image) => {
            json!({ "digest": entry.digest, "tags": entry.tags, "size": size(image), "manifest": image.manifest })
        }
        Err(e) => json!({ "digest": entry.digest, "tags": entry.tags, "error": e.to_string() }),
    }
}

fn list(store: &ImageStore, context: &Context) -> Outcome {
    let entries = store.entries()?;
    let value: Vec<Value> = entries.iter().map(entry_json).collect();
    context.show(&value, || {
        if entries.is_empty() {
            return "no images yet: `pristine image import` makes one\n".into();
        }
        let mut table = Table::new(&["IMAGE", "DIGEST", "ARCH", "KERNEL", ">SIZE", "INIT"]);
        for entry in &entries {
            let name = match (&entry.image, entry.tags.as_slice()) {
                (Ok(image), []) => format!("(was {})", image.manifest.tag),
                _ => entry.label(),
            };
            let rest = match &entry.image {
                Ok(image) => [
                    image.manifest.arch.to_string(),
                    kernel_release(image).to_owned(),
                    mib(size(image)),
                    if image.manifest.native { "native" } else { "foreign" }.to_owned(),
                ],
                Err(_) => ["damaged".into(), "-".into(), "-".into(), "see image verify".into()],
            };
            table.row([name, entry.digest.short()].into_iter().chain(rest));
        }
        table.render()
    })
}

fn show(reference: &str, store: &ImageStore, context: &Context) -> Outcome {
    let image = store.resolve(reference)?;
    let value = json!({ "digest": image.digest, "size": size(&image), "manifest": image.manifest });
    context.show(&value, || describe(&image))
}

fn describe(image: &StoredImage) -> String {
    let m = &image.manifest;
    let mut table = Table::new(&["image", &m.tag.to_string()]);
    table.row(["digest".to_owned(), image.digest.to_string()]);
    table.row(["arch".to_owned(), m.arch.to_string()]);
    let init = if m.native {
        "native: verifies the root and reports its stages"
    } else {
        "foreign: neither verifies the root nor reports"
    };
    table.row(["initramfs", init]);
    table.row(["cmdline", m.cmdline.as_str()]);
    let mut blob = |role: &str, b: &crate::model::BlobRef| {
        table.row([role.to_owned(), format!("{}  {}", b.digest, mib(b.size))]);
    };
    blob("kernel", &m.kernel);
    m.initramfs.iter().for_each(|i| blob("initramfs", i));
    if let Some(rootfs) = &m.rootfs {
        blob("rootfs", &rootfs.blob);
        blob("verity tree", &rootfs.verity.tree);
        table.row(["root hash".to_owned(), rootfs.verity.root_hash.to_string()]);
    }
    m.labels.iter().for_each(|(k, v)| table.row([format!("label {k}"), v.clone()]));
    m.provenance.iter().for_each(|(k, v)| table.row([k.as_str(), v.as_str()]));
    table.render()
}

fn run_verify(references: &[String], store: &ImageStore, context: &Context) -> Outcome {
    let mut entries = store.entries()?;
    if !references.is_empty() {
        let mut wanted = Vec::new();
        for reference in references {
            // By tag first: resolving reads the manifest, which may be what is damaged.
            let tagged = entries.iter().find(|e| e.tags.iter().any(|t| t.to_string() == *reference));
            wanted.push(match tagged {
                Some(entry) => entry.digest,
                None => store.resolve(reference)?.digest,
            });
        }
        entries.retain(|e| wanted.contains(&e.digest));
    }
    let report = verify::verify(store, &entries, &OnStderr)?;
    context.show(&report, || {
        let mut text = String::new();
        for d in &report.damage {
            let _ = writeln!(
                text,
                "DAMAGED {} blob {}: {}\n  file    {}\n  hurts   {}\n  remedy  import the same files again, or remove the image",
                d.role,
                d.digest,
                d.what,
                d.path.display(),
                d.images.join(", ")
            );
        }
        let _ = writeln!(
            text,
            "{} images, {} blobs, {} read: {}",
            report.images,
            report.blobs,
            mib(report.bytes),
            match report.damage.len() {
                0 => "all as they should be".to_owned(),
                n => format!("{n} damaged, hurting {}", verify::hurt(&report).into_iter().collect::<Vec<_>>().join(", ")),
            }
        );
        text
    })?;
    if report.damage.is_empty() { Ok(()) } else { Err(Failure::Said) }
}

fn remove(references: &[String], state_dir: &Path, store: &ImageStore, context: &Context) -> Outcome {
    let mut removed = Vec::new();
    for reference in references {
        removed.push(store.remove(reference, |digest| in_use(state_dir, digest))?);
    }
    let value: Vec<Value> = removed
        .iter()
        .map(|r| json!({ "digest": r.digest, "tags": r.tags, "blobs": r.blobs, "bytes": r.bytes }))
        .collect();
    context.show(&value, || {
        let line = |r: &Removed| {
            let tags: Vec<String> = r.tags.iter().map(Tag::to_string).collect();
            let name = if tags.is_empty() { r.digest.short() } else { tags.join(", ") };
            format!("removed {name}: {} freed\n", mib(r.bytes))
        };
        removed.iter().map(line).collect()
    })
}

/// Who hangs on an image, by the state database: by pin, by default, or by having booted it.
fn in_use(state_dir: &Path, digest: Digest) -> Result<Vec<String>, String> {
    let Some(state) = Db::open_read_only(state_dir).map_err(|e| e.to_string())? else {
        return Ok(Vec::new());
    };
    let is_it = |target: &Option<BootTarget>| *target == Some(BootTarget::Image { digest });
    let name = |m: &Machine| match &m.hostname {
        Some(host) => format!("{host} ({})", m.mac),
        None => m.mac.to_string(),
    };
    let mut by = Vec::new();
    if is_it(&state.default) {
        by.push("it is the site's default".to_owned());
    }
    for machine in &state.machines {
        if is_it(&machine.pin) {
            by.push(format!("{} is pinned to it", name(machine)));
        } else if machine.running == Some(digest) {
            by.push(format!("{} runs it", name(machine)));
        }
    }
    Ok(by)
}

fn build_initramfs(args: &InitramfsArgs, context: &Context) -> Outcome {
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
