use super::{
    ServerAddr,
    cmdline::{self, CmdlineError, CmdlineInput, Roots},
    template::{render, screen_text},
};
use crate::model::{Arch, AttemptId, BlobRef, Digest, Image, Mac, Machine};

const IMAGE: &str = include_str!("../../boot/ipxe/image.ipxe");
const AUTOEXEC: &str = include_str!("../../boot/ipxe/autoexec.ipxe");
const DISCOVER: &str = include_str!("../../boot/ipxe/discover.ipxe");
const REFUSED: &str = include_str!("../../boot/ipxe/refused.ipxe");
const LOCAL: &str = include_str!("../../boot/ipxe/local.ipxe");

/// What the script of one machine and one boot is made from.
#[derive(Clone, Copy, Debug)]
pub struct ScriptInput<'a> {
    /// Where the machine reaches the service.
    pub server: ServerAddr,
    /// Whose script.
    pub machine: &'a Machine,
    /// The NIC that booted: one of the machine's MACs.
    pub mac: Mac,
    /// What it boots.
    pub target: ScriptTarget<'a>,
    /// This boot.
    pub attempt: AttemptId,
    /// The boot's one-time token (see [`CmdlineInput::token`]).
    pub token: &'a str,
    /// [`Machine::generation`] when the target was decided.
    pub generation: u64,
    /// Kernel arguments of the machine's own.
    pub args: &'a [String],
    /// The configuration that goes with this boot.
    pub config: Option<Digest>,
    /// How the root of a native image comes.
    pub roots: Roots,
}

/// A boot target together with what is needed to boot it.
#[derive(Clone, Copy, Debug)]
pub enum ScriptTarget<'a> {
    /// This image.
    Image(&'a Image),
    /// The machine's own disk.
    Local,
    /// Not ours to boot: iPXE gives up and the firmware goes on.
    Ignore,
    /// A screen that says who it is, until there is an assignment.
    Discover,
    /// The kernel and initramfs of this image, which wait in memory until there is an assignment.
    Wait(&'a Image),
    /// It should boot something that it can't: the screen says why and asks again.
    Refused {
        /// One sentence for the person at the console.
        reason: &'a str,
    },
}

/// Why there is no script. The caller answers with [`ScriptTarget::Refused`] so that the machine's
/// console says it too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// The kernel command line can't be made.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The image is for other processors.
    #[error(
        "image {image} is for {image_arch}, but the machine's firmware starts {machine_arch}: pin an image for {machine_arch}"
    )]
    WrongArch {
        /// Tag of the image.
        image: String,
        /// What it runs on.
        image_arch: Arch,
        /// What the machine is.
        machine_arch: Arch,
    },
    /// The image has more parts than any real one.
    #[error("image {0} has {1} initramfs files: merge them to 4 or fewer")]
    TooManyInitrds(String, usize),
    /// Our own template is broken; a test would have found it.
    #[error("a boot script template of this build is broken: please report it")]
    Template,
}

/// The iPXE script for one boot. Nothing from outside is put in unless it is harmless by its type,
/// checked (command line) or made harmless (screen texts).
pub fn boot_script(input: &ScriptInput<'_>) -> Result<String, ScriptError> {
    let server = input.server.base_url();
    let mac = input.mac.to_string();
    let who = who(input.machine, input.mac);
    let script_url = script_url(&input.server);
    let common = [
        ("server", server.as_str()),
        ("mac", mac.as_str()),
        ("who", who.as_str()),
        ("script_url", script_url.as_str()),
    ];
    let with = |template, more: &[(&str, &str)]| render(template, &[&common, more].concat());
    match input.target {
        ScriptTarget::Image(image) => image_script(input, image, cmdline::for_boot, &common),
        ScriptTarget::Wait(image) => image_script(input, image, cmdline::for_waiting, &common),
        ScriptTarget::Local => with(LOCAL, &[("reason", "boots from its own disk")]),
        ScriptTarget::Ignore => with(LOCAL, &[("reason", "is not booted by this server")]),
        ScriptTarget::Discover => with(DISCOVER, &[]),
        ScriptTarget::Refused { reason } => {
            let reason = reason.split(": ").map(screen_text).collect::<Vec<_>>().join(": ");
            with(REFUSED, &[("reason", &reason)])
        }
    }
}

/// What `autoexec.ipxe` says: keep or get an address, then chain to [`boot_script`]'s URL, with a
/// retry screen. The same for every machine: iPXE itself puts in who it is.
pub fn autoexec_script(server: &ServerAddr) -> String {
    let values = [
        ("server", server.base_url()),
        ("port", server.http_port.to_string()),
        ("script_url", script_url(server)),
    ];
    let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // Its places are held by a test: the template is part of this program.
    render(AUTOEXEC, &values).unwrap_or_default()
}

fn image_script(
    input: &ScriptInput<'_>,
    image: &Image,
    cmdline: fn(&Image, &CmdlineInput<'_>) -> Result<String, CmdlineError>,
    common: &[(&str, &str)],
) -> Result<String, ScriptError> {
    let manifest = &image.manifest;
    if let Some(machine_arch) = input.machine.arch.filter(|arch| *arch != manifest.arch) {
        let (image, image_arch) = (manifest.tag.to_string(), manifest.arch);
        return Err(ScriptError::WrongArch { image, image_arch, machine_arch });
    }
    if manifest.initramfs.len() > cmdline::MAX_INITRAMFS {
        return Err(ScriptError::TooManyInitrds(manifest.tag.to_string(), manifest.initramfs.len()));
    }
    let url = |blob: BlobRef, name: &str| {
        format!("{}/blobs/{}/{name}?boot={}", input.server.base_url(), blob.digest, input.attempt)
    };
    let initrds: Vec<String> = manifest
        .initramfs
        .iter()
        .enumerate()
        .map(|(nth, blob)| {
            let name = cmdline::initrd_name(nth);
            let url = url(*blob, &name);
            format!("set what the initramfs\nset url {url}\ninitrd --name {name} {url} || goto failed")
        })
        .collect();
    let boot = CmdlineInput {
        server: input.server,
        mac: input.mac,
        boot: input.attempt,
        token: input.token,
        args: input.args,
        config: input.config,
        roots: input.roots,
    };
    let line = cmdline(image, &boot)?;
    let own = [
        ("image", manifest.tag.to_string()),
        ("digest", image.digest.short()),
        ("boot", input.attempt.to_string()),
        ("generation", input.generation.to_string()),
        ("port", input.server.http_port.to_string()),
        ("kernel_url", url(manifest.kernel, "kernel")),
        ("kernel_name", cmdline::KERNEL_NAME.to_owned()),
        ("cmdline", line),
        ("initrds", initrds.join("\n")),
    ];
    let mut values = common.to_vec();
    values.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
    render(IMAGE, &values)
}

/// The machine in the words of the person who stands before it.
fn who(machine: &Machine, mac: Mac) -> String {
    let mut who = match &machine.hostname {
        Some(name) => format!("{} ({mac})", screen_text(name)),
        None => mac.to_string(),
    };
    if let Some(serial) = &machine.serial {
        who.push_str(&format!(", serial {}", screen_text(serial)));
    }
    who
}

/// Where a machine asks for its script. iPXE puts its settings in; `uristring` encodes them.
fn script_url(server: &ServerAddr) -> String {
    let base = server.base_url();
    format!(
        "{base}/boot/script?mac=${{netX/mac}}&uuid=${{uuid}}&serial=${{serial:uristring}}\
         &manufacturer=${{manufacturer:uristring}}&product=${{product:uristring}}\
         &platform=${{platform}}&buildarch=${{buildarch}}"
    )
}
