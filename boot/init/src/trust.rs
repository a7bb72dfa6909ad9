//! Keys that this initramfs carries. Where it came by a way that the boot server can't change (a USB stick, a
//! signed UKI), they keep a server that was taken over from running code of its own on this machine.

use crate::{
    digest::Digest,
    failure::{Doing, Result, failed},
    fetch,
    manifest::Manifest,
};
use pristine_signature::{Carried, MAX_SIGNATURE, MAX_SIGNATURES, Signature, Vouched, utc};
use std::{fs, io, net::SocketAddrV4, path::Path};

const DIR: &str = "/etc/pristine";
/// Where the running image has them, which another image may be started from by kexec.
const LEFT: &str = "/run/pristine/trust";
/// Minisign public keys, one a line.
const KEYS: &str = "trusted-keys";
/// Names of images, each with the second since 1970 from which on its signatures count.
const IMAGES: &str = "trusted-images";

/// What the initramfs carries; `None` where it carries nothing. What can't be read is no reason to boot
/// without it.
pub fn carried() -> Result<Option<Carried>> {
    carried_in(Path::new(DIR))
}

/// Leaves them to the running image.
pub fn leave() -> Result<()> {
    for name in [KEYS, IMAGES] {
        let from = Path::new(DIR).join(name);
        if from.exists() {
            fs::create_dir_all(LEFT).doing(format!("make {LEFT}"))?;
            fs::copy(from, Path::new(LEFT).join(name)).doing(format!("leave {name} in {LEFT}"))?;
        }
    }
    Ok(())
}

/// What was left to the running image.
pub fn left() -> Result<Option<Carried>> {
    carried_in(Path::new(LEFT))
}

fn carried_in(dir: &Path) -> Result<Option<Carried>> {
    let read = |name: &str| match fs::read_to_string(dir.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).doing(format!("read {DIR}/{name} of this initramfs")),
    };
    match (read(KEYS)?, read(IMAGES)?) {
        (None, None) => Ok(None),
        (None, Some(_)) => failed(format!("this initramfs has {DIR}/{IMAGES}, but no {KEYS} beside it")),
        (Some(keys), images) => {
            let carried = Carried::parse(&keys, images.as_deref());
            carried.map(Some).doing(format!("read the keys in {DIR} of this initramfs"))
        }
    }
}

/// Fetches the image's signatures; who of the carried keys vouches for it, in words.
pub fn check(
    carried: &Carried,
    server: SocketAddrV4,
    manifest: &[u8],
    image: Digest,
    tag: &str,
) -> Result<String> {
    let path = format!("/images/{image}/signatures");
    let most = ((MAX_SIGNATURE + 1) * MAX_SIGNATURES) as u64;
    let bytes = fetch::whole(server, &path, None, most, "the image's signatures")?;
    judge(carried, &bytes, manifest, image, tag)
}

/// A command line that the server says must be the one of the proven manifest, with nothing but the words that
/// every boot gets: any other (`init=/bin/sh`) would make of a signed image what nobody signed.
pub fn check_cmdline(manifest: &Manifest, line: &str, server: SocketAddrV4, image: Digest) -> Result<()> {
    if !manifest.native {
        return failed("it has an initramfs of its own, which proves nothing that it runs");
    }
    if manifest.cmdline.contains('{') {
        return failed("its command line has places that the server fills in, which no key vouches for");
    }
    let ours = |word: &&str| {
        // How the root's blocks come is the server's to say: each is proven either way.
        *word == "pristine.root=stream"
            || ["initrd=initrd", "pristine.boot=", "pristine.token=", "BOOTIF="]
                .iter()
                .any(|ours| word.starts_with(ours))
    };
    let own = [format!("pristine.server=http://{server}"), format!("pristine.image={image}")];
    let short = server.to_string().strip_suffix(":80").map(|ip| format!("pristine.server=http://{ip}"));
    let fixed: Vec<&str> = own.iter().chain(&short).map(String::as_str).collect();
    let signed: Vec<&str> = manifest.cmdline.split_ascii_whitespace().collect();
    let panics = signed.iter().any(|word| word.starts_with("panic="));
    let rest: Vec<&str> = line
        .split_ascii_whitespace()
        .filter(|word| !ours(word) && !fixed.contains(word) && (panics || *word != "panic=30"))
        .collect();
    if rest != signed {
        return failed(format!("the server says a command line that is not the image's: {}", rest.join(" ")));
    }
    Ok(())
}

fn judge(carried: &Carried, bytes: &[u8], manifest: &[u8], image: Digest, tag: &str) -> Result<String> {
    let refuse = |why: String| {
        failed(format!(
            "image {tag} {why}. This initramfs carries keys, and boots nothing that they don't vouch for"
        ))
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => return refuse("has signatures that are not text".into()),
    };
    let signatures = match Signature::parse_all(text) {
        Ok(signatures) => signatures,
        Err(e) => return refuse(format!("has a signature that can't be read: {e}")),
    };
    match carried.judge(manifest, &image.to_string(), tag, &signatures) {
        Ok(Vouched { key, signed: Some(signed) }) => {
            Ok(format!("key {key} vouches for it, since {}", utc(signed)))
        }
        Ok(Vouched { key, signed: None }) => Ok(format!("key {key} vouches for it")),
        Err(why) => refuse(why),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// From the documentation of minisign: key, file `test`, signature.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const FILE: &str = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";

    fn ask(carried: &Carried, signatures: &str, manifest: &[u8]) -> std::result::Result<String, String> {
        judge(carried, signatures.as_bytes(), manifest, Digest::of(manifest), "web:2").map_err(|f| f.0)
    }

    #[test]
    fn only_what_a_carried_key_signed_late_enough_may_boot() {
        let any = Carried::parse(KEY, None).unwrap();
        assert_eq!(
            ask(&any, FILE, b"test").unwrap(),
            "key E7620F1842B4E81F vouches for it, since 2021-10-08 13:47:15Z"
        );
        assert!(ask(&any, "", b"test").unwrap_err().contains("image web:2 is not signed"));
        assert!(ask(&any, FILE, b"other").unwrap_err().contains("does not fit"));
        assert!(ask(&any, "nonsense", b"test").unwrap_err().contains("can't be read"));
        let floor = |images: &str| Carried::parse(KEY, Some(images)).unwrap();
        assert!(ask(&floor("web 1633700835"), FILE, b"test").is_ok());
        let old = ask(&floor("* 1633700835\nweb 1633700836"), FILE, b"test").unwrap_err();
        assert!(old.contains("signed at 2021-10-08 13:47:15Z") && old.contains("or later"), "{old}");
        let other = ask(&floor("db 0"), FILE, b"test").unwrap_err();
        assert!(other.contains("it boots db"), "{other}");
    }

    #[test]
    fn a_signed_image_gets_no_command_line_but_its_own() {
        let server = "198.18.0.1:8080".parse().unwrap();
        let image = Digest([7; 32]);
        let blob = format!(r#"{{"digest":"{image}","size":1}}"#);
        let manifest = |cmdline: &str, native: bool| {
            let text = format!(
                r#"{{"schema":1,"tag":"web:2","kernel":{blob},"cmdline":"{cmdline}","native":{native}}}"#
            );
            serde_json::from_str::<Manifest>(&text).unwrap()
        };
        let words = |of_image: &str| {
            format!(
                "initrd=initrd0 {of_image} pristine.server=http://{server} pristine.image={image} pristine.boot=00aa \
                 pristine.token=t BOOTIF=01-02"
            )
        };
        let web = manifest("console=ttyS0 quiet", true);
        let ask = |line: &str| check_cmdline(&web, line, server, image);
        assert_eq!(ask(&words("console=ttyS0 quiet panic=30")), Ok(()));
        assert_eq!(ask(&(words("console=ttyS0 quiet") + " pristine.root=stream")), Ok(()));
        for bad in [
            words("console=ttyS0 quiet init=/bin/sh"),
            words("console=ttyS0"),
            words("quiet console=ttyS0"),
            words("console=ttyS0 quiet").replace("198.18.0.1", "198.18.0.66"),
            words("console=ttyS0 quiet") + &format!(" pristine.image={}", Digest([8; 32])),
            words("console=ttyS0 quiet") + " pristine.config=yes",
        ] {
            assert!(ask(&bad).is_err(), "{bad}");
        }
        assert!(check_cmdline(&manifest("a={mac}", true), &words("a=1"), server, image).is_err());
        assert!(check_cmdline(&manifest("quiet", false), &words("quiet"), server, image).is_err());
    }

    #[test]
    fn a_damaged_initramfs_does_not_boot_without_its_keys() {
        let dir = std::env::temp_dir().join(format!("pristine-init-trust-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let put = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        assert_eq!(carried_in(&dir).unwrap(), None);
        put(IMAGES, "web 0\n");
        let lonely = carried_in(&dir).unwrap_err().0;
        put(KEYS, "# none\n");
        let empty = carried_in(&dir).unwrap_err().0;
        put(KEYS, KEY);
        let good = carried_in(&dir).unwrap().unwrap();
        put(IMAGES, "\u{fffd}");
        let odd = carried_in(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert!(
            lonely.contains("no trusted-keys") && empty.contains("there is no key in it"),
            "{lonely} {empty}"
        );
        assert_eq!((good.keys.len(), good.images.len()), (1, 1));
        assert_eq!(odd.unwrap().unwrap().images.first().unwrap().name, "\u{fffd}");
    }
}
