//! Files and folders in the new root. A path never leads out of it, and no link leads anywhere that a user of the machine made: on a
//! volume that outlives a boot, links may be anybody's.

use crate::failure::{Doing, Failure, Result, failed};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};
use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

/// Links that one path may lead over.
const MAX_LINKS: usize = 40;
/// While a file is written it has this name.
const UNFINISHED: &str = ".pristine-unfinished";

/// Who a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// root:root.
    pub const ROOT: Owner = Owner { uid: 0, gid: 0 };
}

/// The new root.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// Nothing above, no links, nothing of /proc.
fn plainly(at: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(at, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

impl Root {
    /// The root at this folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path.as_ref(), flags, Mode::empty()).doing("open the new root").map(Root)
    }

    /// A folder; made (0755, root) with its parents where it isn't there.
    pub fn folder(&self, path: &str) -> Result<OwnedFd> {
        let real = self.real_folder(path, true)?;
        plainly(&self.0, &real, OFlags::RDONLY | OFlags::DIRECTORY).doing(format!("open {path}"))
    }

    /// Where a folder really is, relative to the root; `.` for the root itself.
    fn real_folder(&self, path: &str, make: bool) -> Result<String> {
        let mut left: VecDeque<String> = parts(path).collect();
        let mut real: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                real.pop();
                continue;
            }
            let at = if real.is_empty() { ".".to_owned() } else { real.join("/") };
            let at =
                plainly(&self.0, &at, OFlags::RDONLY | OFlags::DIRECTORY).doing(format!("open {path}"))?;
            match rustix::fs::statat(&at, &part, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => real.push(part),
                    FileType::Symlink => {
                        links += 1;
                        if stat.st_uid != 0 || links > MAX_LINKS {
                            return failed(format!(
                                "{path} leads over a link ({part}) that is not root's, or over too many: nothing is written through it"
                            ));
                        }
                        let target =
                            rustix::fs::readlinkat(&at, &part, Vec::new()).doing(format!("read {path}"))?;
                        let target = target.into_string().doing(format!("read {path}"))?;
                        if target.starts_with('/') {
                            real.clear();
                        }
                        parts(&target).collect::<Vec<_>>().into_iter().rev().for_each(|p| left.push_front(p));
                    }
                    _ => return failed(format!("{path} can't be a folder: {part} in it is a file")),
                },
                Err(Errno::NOENT) if make => {
                    rustix::fs::mkdirat(&at, &part, Mode::from_raw_mode(0o755))
                        .doing(format!("make {path}"))?;
                    real.push(part);
                }
                Err(e) => return Err(e).doing(format!("look at {path}")),
            }
        }
        Ok(if real.is_empty() { ".".to_owned() } else { real.join("/") })
    }

    /// A file with all that it holds, who owns it, and its mode; `None` where there is none.
    pub fn read(&self, path: &str, most: u64) -> Result<Option<(String, Owner, u32)>> {
        let (parent, name) = split(path)?;
        let Ok(real) = self.real_folder(parent, false) else { return Ok(None) };
        let folder =
            plainly(&self.0, &real, OFlags::RDONLY | OFlags::DIRECTORY).doing(format!("open {parent}"))?;
        let file = match plainly(&folder, name, OFlags::RDONLY) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e).doing(format!("open {path}")),
        };
        let stat = rustix::fs::fstat(&file).doing(format!("look at {path}"))?;
        let mut text = String::new();
        file.take(most + 1).read_to_string(&mut text).doing(format!("read {path}"))?;
        if text.len() as u64 > most {
            return failed(format!("{path} of the image is longer than {most} bytes"));
        }
        Ok(Some((text, Owner { uid: stat.st_uid, gid: stat.st_gid }, stat.st_mode & 0o7777)))
    }

    /// Writes a file, in the place of whatever has its name; the folders above it are made.
    pub fn write(&self, path: &str, content: &[u8], mode: u32, owner: Owner) -> Result<()> {
        let (parent, name) = split(path)?;
        let folder = self.folder(parent)?;
        write_in(&folder, name, content, mode, owner).doing(format!("write {path}"))
    }

    /// Gives a folder to somebody.
    pub fn own(&self, path: &str, mode: u32, owner: Owner) -> Result<()> {
        own(&self.folder(path)?, mode, owner).doing(format!("set owner and mode of {path}"))
    }

    /// `.ssh/authorized_keys` in a user's home, which nobody but that user has a say in: no link is followed there.
    pub fn write_keys(&self, home: &str, keys: &str, owner: Owner) -> Result<()> {
        let folder = self.folder(home)?;
        let doing = || format!("write the SSH keys in {home}");
        match rustix::fs::mkdirat(&folder, ".ssh", Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).doing(doing()),
        }
        let ssh =
            plainly(&folder, ".ssh", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW).doing(doing())?;
        own(&ssh, 0o700, owner).doing(doing())?;
        write_in(&ssh, "authorized_keys", keys.as_bytes(), 0o600, owner).doing(doing())
    }

    /// A user's home, made where it isn't there; one that is there stays as it is.
    pub fn make_home(&self, home: &str, owner: Owner) -> Result<()> {
        let (parent, name) = split(home)?;
        let folder = self.folder(parent)?;
        match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(()),
            Err(e) => return Err(e).doing(format!("make {home}")),
        }
        let made =
            plainly(&folder, name, OFlags::RDONLY | OFlags::DIRECTORY).doing(format!("make {home}"))?;
        own(&made, 0o700, owner).doing(format!("make {home}"))
    }
}

fn parts(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').filter(|p| !matches!(*p, "" | ".")).map(str::to_owned)
}

/// The folder and the name in it.
fn split(path: &str) -> Result<(&str, &str)> {
    let found =
        path.rsplit_once('/').filter(|(_, name)| !matches!(*name, "" | "." | "..") && path.starts_with('/'));
    found.ok_or_else(|| Failure(format!("{path} can't be the path of a file")))
}

fn own(file: &OwnedFd, mode: u32, owner: Owner) -> rustix::io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    // Behind it: a change of owner takes set-user-ID bits away.
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
}

fn write_in(folder: &OwnedFd, name: &str, content: &[u8], mode: u32, owner: Owner) -> std::io::Result<()> {
    match rustix::fs::unlinkat(folder, UNFINISHED, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(folder, UNFINISHED, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(content)?;
    let fd = OwnedFd::from(file);
    own(&fd, mode, owner)?;
    Ok(rustix::fs::renameat(folder, UNFINISHED, folder, name)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        path::PathBuf,
    };

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn root() -> (Folder, Root) {
        let name = format!("pristine-place-{}-{:08x}", std::process::id(), crate::random::bits());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("root")).unwrap();
        let root = Root::open(path.join("root")).unwrap();
        (Folder(path), root)
    }

    fn me() -> Owner {
        Owner { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
    }

    #[test]
    fn a_file_takes_the_place_of_what_is_there_with_its_mode() {
        let (folder, root) = root();
        root.write("/a/b/c", b"one", 0o640, me()).unwrap();
        let path = folder.0.join("root/a/b/c");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(&path).unwrap().uid(), me().uid);
        fs::write(folder.0.join("outside"), "outside").unwrap();
        fs::remove_file(&path).unwrap();
        symlink("../../../outside", &path).unwrap();
        root.write("/a/b/c", b"two", 0o600, me()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::read(folder.0.join("outside")).unwrap(),
            b"outside",
            "a link is replaced, not followed"
        );
        assert_eq!(root.read("/a/b/c", 10).unwrap().unwrap().0, "two");
        assert!(root.read("/a/b/c", 2).is_err());
        assert_eq!(root.read("/a/no/c", 2).unwrap(), None);
        let said = root.write("/a/b", b"", 0o600, me()).unwrap_err().0;
        assert!(said.contains("could not write /a/b"), "{said}");
        assert!(root.write("/a/b/c/d", b"", 0o600, me()).unwrap_err().0.contains("is a file"));
    }

    #[test]
    fn links_lead_nowhere_but_into_the_root_itself() {
        let (folder, root) = root();
        let at = |name: &str| folder.0.join(name);
        fs::create_dir(at("outside")).unwrap();
        fs::create_dir_all(at("root/usr/lib")).unwrap();
        symlink("usr/lib", at("root/lib")).unwrap();
        symlink("/usr/lib", at("root/lib64")).unwrap();
        symlink("../../outside", at("root/up")).unwrap();
        symlink(at("outside"), at("root/away")).unwrap();
        symlink("round", at("root/round")).unwrap();
        // Links are followed where root made them: as another user this test's are nobody's.
        if me().uid != 0 {
            assert!(root.write("/lib/x", b"", 0o600, me()).is_err());
            return;
        }
        root.write("/lib/x", b"1", 0o600, me()).unwrap();
        root.write("/lib64/y", b"2", 0o600, me()).unwrap();
        assert!(at("root/usr/lib/x").exists() && at("root/usr/lib/y").exists());
        root.write("/up/z", b"3", 0o600, me()).unwrap();
        root.write("/away/z", b"4", 0o600, me()).unwrap();
        assert_eq!(fs::read_dir(at("outside")).unwrap().count(), 0, "a path never leaves the root");
        assert!(root.write("/round/x", b"", 0o600, me()).unwrap_err().0.contains("too many"));
        // A link that a user of the machine left on a volume.
        symlink("usr/lib", at("root/theirs")).unwrap();
        std::os::unix::fs::lchown(at("root/theirs"), Some(1000), Some(1000)).unwrap();
        assert!(root.write("/theirs/x", b"", 0o600, me()).unwrap_err().0.contains("not root's"));
    }

    #[test]
    fn keys_are_private_and_no_link_of_a_user_leads_them_away() {
        let (folder, root) = root();
        root.make_home("/home/ops", me()).unwrap();
        root.write_keys("/home/ops", "ssh-ed25519 AAAA\n", me()).unwrap();
        let mode = |name: &str| fs::metadata(folder.0.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("root/home/ops"), 0o700);
        assert_eq!(mode("root/home/ops/.ssh"), 0o700);
        assert_eq!(mode("root/home/ops/.ssh/authorized_keys"), 0o600);
        fs::remove_dir_all(folder.0.join("root/home/ops/.ssh")).unwrap();
        fs::create_dir(folder.0.join("root/etc")).unwrap();
        symlink("/etc", folder.0.join("root/home/ops/.ssh")).unwrap();
        assert!(root.write_keys("/home/ops", "x", me()).is_err());
        assert_eq!(fs::read_dir(folder.0.join("root/etc")).unwrap().count(), 0);
    }
}
