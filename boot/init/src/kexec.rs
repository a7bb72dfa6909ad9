//! From this kernel straight into another one (kexec(8)): the image's kernel and initramfs are fetched into
//! memory, proven by the manifest's digests, and started without the firmware.

use crate::{
    console::say,
    digest::Digest,
    failure::{Doing, Failure, Result, failed},
    fetch,
    manifest::{self, Blob, Manifest},
    net,
    orders::Next,
    report::Reporter,
    root, sys, trust,
};
use pristine_signature::Carried;
use sha2::{Digest as _, Sha256};
use std::{convert::Infallible, fs::File, os::unix::fs::FileExt};

/// Starts what the service says. Returns only when it could not.
pub fn boot(reporter: &Reporter, next: &Next, carried: Option<&Carried>) -> Result<Infallible> {
    let tag = load(reporter, next, carried)?;
    say(format!("over to the kernel of {tag}"));
    // Nothing may write into the new kernel's memory; the kernel stops other devices by itself.
    net::rest("");
    rustix::fs::sync();
    match rustix::system::reboot(rustix::system::RebootCommand::Kexec) {
        Ok(()) => failed("the kernel did not start the other one"),
        Err(e) => Err(Failure(format!("the kernel did not start the other one: {e}"))),
    }
}

/// Fetches, proves and loads; the image's tag.
pub fn load(reporter: &Reporter, next: &Next, carried: Option<&Carried>) -> Result<String> {
    let path = format!("/blobs/{}?boot={}", next.image, reporter.attempt);
    let bytes = fetch::whole(reporter.server, &path, None, manifest::MAX_MANIFEST, "the image's manifest")?;
    let (tag, manifest) = manifest::read(&bytes, next.image)?;
    say(format!("image {tag}, sha256:{}", next.image));
    if let Some(carried) = carried {
        say(trust::check(carried, reporter.server, &bytes, next.image, &tag)?);
        trust::check_cmdline(&manifest, &next.cmdline, reporter.server, next.image)
            .or_else(|why| failed(format!("image {tag}: {why}")))?;
    }
    let parts = manifest.initramfs.iter().chain([&manifest.kernel]);
    // Here, and once more where the kernel keeps it for the start.
    root::check_memory(
        parts.fold(0, |sum, blob| blob.size.saturating_mul(2).saturating_add(sum)),
        "the kernel",
    )?;
    let kernel = root::memory_file("pristine-kernel", manifest.kernel.size)?;
    fetch_into(&kernel, 0, manifest.kernel, reporter, "the kernel")?;
    let initramfs = initramfs(&manifest, reporter)?;
    sys::kexec_file_load(&kernel, initramfs.as_ref(), &next.cmdline).or_else(|e| {
        failed(format!(
            "this kernel does not load another one: {e}. Secure Boot (lockdown) lets only signed kernels be loaded, \
             kernel.kexec_load_disabled none, and a kernel without CONFIG_KEXEC_FILE can't. It boots {tag} through its \
             firmware instead"
        ))
    })?;
    Ok(tag)
}

/// All files of the initramfs in one, as a boot loader puts them behind each other: each begins at a word.
fn initramfs(manifest: &Manifest, reporter: &Reporter) -> Result<Option<File>> {
    let starts = manifest.initramfs.iter().scan(0u64, |end, blob| {
        let start = end.next_multiple_of(4);
        *end = start.checked_add(blob.size)?;
        Some((start, blob))
    });
    let parts: Vec<(u64, &Blob)> = starts.collect();
    let Some((last, blob)) = parts.last() else { return Ok(None) };
    let file = root::memory_file("pristine-initramfs", last + blob.size)?;
    for (start, blob) in parts {
        fetch_into(&file, start, *blob, reporter, "the initramfs")?;
    }
    Ok(Some(file))
}

/// Fetches a blob to its place in a file; what isn't that blob is refused.
fn fetch_into(file: &File, start: u64, blob: Blob, reporter: &Reporter, what: &str) -> Result<()> {
    let mut hash = Sha256::new();
    let path = format!("/blobs/{}?boot={}", blob.digest, reporter.attempt);
    fetch::stream(reporter.server, &path, blob.size, what, &mut |at, bytes| {
        hash.update(bytes);
        file.write_all_at(bytes, start + at)
            .doing(format!("keep {what} in memory"))
            .map_err(fetch::Problem::Fatal)
    })?;
    let got = Digest(hash.finalize().into());
    if got != blob.digest {
        return failed(format!(
            "{what} from the server is not the one of the image: sha256:{got} instead of sha256:{}. Nothing of it was \
             run. On the server: pristine image verify",
            blob.digest
        ));
    }
    Ok(())
}
