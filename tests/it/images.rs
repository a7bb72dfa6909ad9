//! Images by the command line: what is imported is whole, what is refused leaves nothing, and no kill and
//! no full disk changes what the store showed before.

use pristine::{
    lab::Folder,
    model::{BootTarget, Change, Digest, Mac, Machine},
    store::{ImageStore, db::Db},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A state folder, and files to import.
pub(crate) struct Site {
    folder: Folder,
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

/// The first bytes of a bzImage, which is all that an import looks at.
fn kernel() -> Vec<u8> {
    let mut k = vec![0; 0x8000];
    k[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    k[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    k[0x236] = 1;
    k
}

pub(crate) fn squashfs(folder: &Path, name: &str, contents: &[u8]) -> PathBuf {
    let (root, file) = (folder.join("root"), folder.join(name));
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("file"), contents).unwrap();
    let mut mksquashfs = Command::new("mksquashfs");
    mksquashfs.arg(&root).arg(&file).args([
        "-noappend",
        "-quiet",
        "-noD",
        "-mkfs-time",
        "0",
        "-all-time",
        "0",
    ]);
    let out = mksquashfs.output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    file
}

/// Bytes in which nothing repeats.
pub(crate) fn noise(len: u32) -> Vec<u8> {
    (0..len.div_ceil(4))
        .flat_map(|i| i.wrapping_mul(2_654_435_761).rotate_left(i % 31).to_be_bytes())
        .collect()
}

impl Site {
    pub(crate) fn new() -> Site {
        let folder = Folder::temporary("images").unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("kernel"), kernel()).unwrap();
        fs::write(at("initramfs"), b"070701 with pristine-init").unwrap();
        squashfs(folder.path(), "rootfs", &vec![7; 3 << 20]);
        Site { folder }
    }

    /// Runs `pristine image` with these words, killed (-9) at the n-th of this system call.
    pub(crate) fn killed_at(&self, call: &str, nth: u32, words: &[String]) -> std::process::ExitStatus {
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])
            .arg(env!("CARGO_BIN_EXE_pristine"))
            .args(["--state-dir", path(&self.at("state")), "image"])
            .args(words)
            .output()
            .unwrap()
            .status
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store_dir(&self) -> PathBuf {
        self.at("state").join("store")
    }

    fn words<'a>(&self, words: &[&'a str]) -> Vec<String> {
        let state = self.at("state");
        let front = ["--state-dir", path(&state), "image"].map(str::to_owned);
        front.into_iter().chain(words.iter().map(|w: &&'a str| (*w).to_owned())).collect()
    }

    pub(crate) fn image(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_pristine")).args(self.words(words)).output().unwrap()
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let out = self.image(&[words, &["--json"]].concat());
        assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Arguments of an import of `name:1`; `changes` replaces the values of options or adds some.
    pub(crate) fn import_words(&self, name: &str, changes: &[(&str, &str)]) -> Vec<String> {
        let file = |name: &str| path(&self.at(name)).to_owned();
        let mut args = vec![
            ("--name", name.to_owned()),
            ("--version", "1".to_owned()),
            ("--kernel", file("kernel")),
            ("--initramfs", file("initramfs")),
            ("--rootfs", file("rootfs")),
            ("--cmdline", "console=ttyS0 root={rootfs_url}".to_owned()),
        ];
        for (option, value) in changes {
            args.retain(|(o, _)| o != option);
            args.push((option, (*value).to_owned()));
        }
        let flat = args.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        ["import".to_owned()].into_iter().chain(flat).collect()
    }

    pub(crate) fn import(&self, name: &str, changes: &[(&str, &str)]) -> Output {
        let words = self.import_words(name, changes);
        self.image(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(crate) fn imported(&self, name: &str, changes: &[(&str, &str)]) -> Value {
        let out = self.import(name, changes);
        assert!(out.status.success(), "{}", text(&out.stderr));
        self.json(&["show", &format!("{name}:1")])
    }

    /// Every file of the store with its length.
    pub(crate) fn files(&self) -> BTreeSet<(PathBuf, u64)> {
        let (mut todo, mut out) = (vec![self.store_dir()], BTreeSet::new());
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten() {
                let entry = entry.unwrap();
                if entry.path().is_dir() {
                    todo.push(entry.path());
                } else {
                    out.insert((entry.path(), entry.metadata().unwrap().len()));
                }
            }
        }
        out
    }

    /// Where a blob lies, or its list of chunks.
    pub(crate) fn blob(&self, digest: &Value) -> PathBuf {
        ImageStore::open_read_only(&self.store_dir())
            .blobs()
            .place(digest.as_str().unwrap().parse::<Digest>().unwrap())
    }

    /// A blob's bytes as a file of their own.
    fn blob_copy(&self, digest: &Value, name: &str) -> PathBuf {
        let store = ImageStore::open_read_only(&self.store_dir());
        let mut blob = store.blobs().reader(digest.as_str().unwrap().parse().unwrap()).unwrap().unwrap();
        std::io::copy(&mut blob, &mut fs::File::create(self.at(name)).unwrap()).unwrap();
        self.at(name)
    }

    /// The files that chunks lie in.
    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        let files = self.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.extension().is_some_and(|e| e == "pack")).collect()
    }
}

#[test]
fn an_import_is_the_same_everywhere_and_hangs_on_its_root_hash() {
    let site = Site::new();
    let web = site.imported("web", &[("--label", "role=web")]);
    let elsewhere = Site::new().imported("web", &[("--label", "role=web")]);
    assert_eq!(web["digest"], elsewhere["digest"], "the same files and words give the same image");
    let rootfs = &web["manifest"]["rootfs"];
    let data = site.blob_copy(&rootfs["blob"]["digest"], "data");
    let tree = site.blob_copy(&rootfs["verity"]["tree"]["digest"], "tree");
    assert_eq!(fs::metadata(site.packs().first().unwrap()).unwrap().permissions().mode() & 0o777, 0o444);
    let hash = |field: &str| rootfs["verity"][field].as_str().unwrap().to_owned();
    let verify = |root: &str| {
        let blocks = format!("--data-blocks={}", rootfs["verity"]["data_blocks"]);
        let salt = format!("--salt={}", hash("salt"));
        Command::new("veritysetup")
            .args(["verify", "--no-superblock", "--hash=sha256", &salt, &blocks])
            .args([data.as_os_str(), tree.as_os_str(), root.as_ref()])
            .output()
            .unwrap()
    };
    let good = verify(&hash("root_hash"));
    assert!(good.status.success(), "{}", text(&good.stderr));
    assert!(!verify(&hash("salt")).status.success(), "veritysetup takes any root hash");
}

#[test]
fn importing_again_is_no_change_and_another_image_needs_move_tag() {
    let site = Site::new();
    let web = site.imported("web", &[]);
    let before = site.files();
    assert!(text(&site.import("web", &[]).stdout).contains("already"));
    assert_eq!(site.files(), before);
    let other = site.import("web", &[("--cmdline", "quiet")]);
    assert!(text(&other.stderr).contains("--move-tag"), "{}", text(&other.stderr));
    assert_eq!(site.files(), before);
    let mut words = site.import_words("web", &[("--cmdline", "quiet")]);
    words.push("--move-tag".into());
    assert!(site.image(&words.iter().map(String::as_str).collect::<Vec<_>>()).status.success());
    assert_ne!(site.json(&["show", "web:1"])["digest"], web["digest"]);
    assert_eq!(site.json(&["show", web["digest"].as_str().unwrap()])["digest"], web["digest"]);
}

#[test]
fn a_refused_import_says_why_and_leaves_the_store_as_it_was() {
    let site = Site::new();
    site.imported("web", &[]);
    let before = site.files();
    let rootfs = fs::read(site.at("rootfs")).unwrap();
    fs::write(site.at("short"), &rootfs[..rootfs.len() - 8192]).unwrap();
    fs::write(site.at("elf"), b"\x7fELF").unwrap();
    // Nobody writes to it: who opens it waits for ever.
    assert!(Command::new("mkfifo").arg(site.at("pipe")).status().unwrap().success());
    squashfs(&site.at(""), "small", b"nothing much");
    fs::write(site.at("other"), b"070701 with busybox").unwrap();
    fs::write(site.at("tiny"), &rootfs[..4096]).unwrap();
    let mut arm = vec![0; 64];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    fs::write(site.at("arm"), arm).unwrap();
    let file = |name: &str| path(&site.at(name)).to_owned();
    let cases = [
        ("--rootfs", file("kernel"), "not a squashfs"),
        ("--rootfs", file("short"), "cut short"),
        ("--rootfs", file("nowhere"), "No such file"),
        ("--rootfs", file(""), "not a plain file"),
        ("--kernel", file("pipe"), "not a plain file"),
        ("--kernel", file("elf"), "an ELF file"),
        ("--kernel", file("rootfs"), "--rootfs takes"),
        ("--initramfs", file("kernel"), "--kernel takes"),
        ("--initramfs", file("other"), "--foreign"),
        ("--rootfs", file("tiny"), "cut short"),
        ("--rootfs", file("small"), "no system to boot"),
        ("--arch", "arm64".into(), "is for x86_64, but aarch64"),
        ("--cmdline", "root={nowhere}".into(), "{nowhere}"),
        ("--cmdline", "a\u{7}b".into(), "command line"),
        ("--cmdline", "pristine.image=0".into(), "pristine.image"),
        ("--label", "role=a\nb".into(), "label"),
        ("--version", "../1".into(), "can't be used in a tag"),
        ("--modules", file("root"), "modules.dep"),
    ];
    for (option, value, words) in cases {
        let init = [(option, value.as_str()), ("--init", "/bin/busybox")];
        let out = site.import("bad", &init);
        assert_eq!(out.status.code(), Some(1), "{option} {value}");
        let said = text(&out.stderr);
        assert!(said.contains(words), "{option} {value}: {said}");
        assert_eq!(site.files(), before, "{option} {value}");
    }
    let out = site.import("bad", &[("--kernel", &file("arm")), ("--arch", "x86_64")]);
    assert!(text(&out.stderr).contains("is for aarch64, but x86_64"), "{}", text(&out.stderr));
    assert_eq!(site.files(), before);
}

/// Runs an import under a shell that first does `before`, with the arguments as `"$@"`.
fn import_after(site: &Site, before: &str) -> Output {
    Command::new("unshare")
        .args(["--mount", "sh", "-ec", &format!("{before}\nexec \"$@\""), "sh"])
        .arg(env!("CARGO_BIN_EXE_pristine"))
        .args(["--state-dir", path(&site.at("state")), "image"])
        .args(site.import_words("big", &[("--rootfs", path(&site.at("big")))]))
        .output()
        .unwrap()
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    let site = Site::new();
    squashfs(site.folder.path(), "big", &noise(3 << 20));
    let dir = site.at("state");
    fs::create_dir(&dir).unwrap();
    let dir = path(&dir);
    let out = import_after(&site, &format!("mount -t tmpfs -o size=2m tmpfs {dir}"));
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("no room"), "{}", text(&out.stderr));

    site.imported("web", &[]);
    let before = site.files();
    // A limit stops it in the middle of the copy, as a disk does that another program fills meanwhile.
    let out = import_after(&site, "trap '' XFSZ; ulimit -f 2048");
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(said.contains("nothing was changed") && said.contains("write"), "{said}");
    assert_eq!(site.files(), before);
}

/// Kills an import at its 1st, 2nd, … call of each kind that changes the file system, until one ends by
/// itself.
#[test]
fn a_kill_at_any_step_leaves_the_old_images_or_the_new_one_whole() {
    let site = Site::new();
    squashfs(site.folder.path(), "rootfs2", &noise(1_500_000));
    let web = site.imported("web", &[]);
    let clean = site.files();
    let rootfs2 = site.at("rootfs2");
    let words = site.import_words("new", &[("--rootfs", path(&rootfs2))]);
    let (mut kills, mut after_the_tag) = (0, 0);
    for call in ["mkdir", "flock", "write", "fchmod", "fsync", "rename", "unlink"] {
        for nth in 1.. {
            assert!(nth < 400, "the import never ends");
            let status = site.killed_at(call, nth, &words);
            let at = format!("killed at {call} {nth}");
            let listed = site.json(&["list"]);
            let tags: Vec<&str> =
                listed.as_array().unwrap().iter().map(|i| i["tags"][0].as_str().unwrap()).collect();
            let verified = site.image(&["verify"]);
            assert!(verified.status.success(), "{at}: {}", text(&verified.stdout));
            let store = ImageStore::open(&site.store_dir()).unwrap();
            assert_eq!(store.resolve("web:1").unwrap().digest.to_string(), web["digest"].as_str().unwrap());
            let visible = tags == ["new:1", "web:1"];
            assert!(visible || tags == ["web:1"], "{at}: {tags:?}");
            if visible {
                store.remove("new:1", |_| Ok(Vec::new())).unwrap();
            }
            assert_eq!(site.files(), clean, "{at}");
            if status.success() {
                assert!(visible);
                break;
            }
            assert!(status.signal() == Some(9) || status.code() == Some(137), "{at}: {status}");
            kills += 1;
            after_the_tag += u32::from(visible);
        }
    }
    assert!(
        kills > 30 && after_the_tag < kills / 2,
        "{kills} kills, {after_the_tag} after the tag was there"
    );
}

#[test]
fn an_image_that_machines_hang_on_stays() {
    let site = Site::new();
    let web = site.imported("web", &[]);
    let digest: Digest = web["digest"].as_str().unwrap().parse().unwrap();
    let save = |change: Change| {
        let (db, _) = Db::open(&site.at("state")).unwrap();
        db.enqueue(vec![change]).wait().unwrap();
    };
    let mac: Mac = "52:54:00:00:00:01".parse().unwrap();
    let machine = |pin, running| {
        let mut m = Machine::new(mac, 0);
        (m.hostname, m.pin, m.running) = (Some("r1".into()), pin, running);
        Change::Machine(m.into())
    };
    let target = BootTarget::Image { digest };
    let cases = [
        (machine(Some(target.clone()), None), "r1 (52:54:00:00:00:01) is pinned to it"),
        (machine(None, Some(digest)), "r1 (52:54:00:00:00:01) runs it"),
        (Change::Default(Some(target)), "the site's default"),
    ];
    for (change, words) in cases {
        save(change);
        let out = site.image(&["rm", "web:1"]);
        assert_eq!(out.status.code(), Some(1));
        assert!(text(&out.stderr).contains(words), "{}", text(&out.stderr));
        assert_eq!(site.json(&["show", "web:1"])["digest"], web["digest"]);
        save(machine(None, None));
    }
    save(Change::Default(None));
    let config = site.at("discover.toml");
    fs::write(&config, "discover_image = \"web:1\"\n").unwrap();
    let out = site.image(&["rm", "web:1", "--config", path(&config)]);
    assert!(text(&out.stderr).contains("machines wait in it"), "{}", text(&out.stderr));
    assert!(site.image(&["rm", "web:1"]).status.success());
    assert_eq!(site.json(&["list"]), serde_json::json!([]));
    assert!(!site.blob(&web["manifest"]["kernel"]["digest"]).exists());
}

#[test]
fn verify_names_the_damaged_blob_and_the_images_it_hurts() {
    let site = Site::new();
    let web = site.imported("web", &[]);
    site.imported("db", &[]);
    squashfs(site.folder.path(), "rootfs2", &[8; 200_000]);
    site.imported("safe", &[("--rootfs", path(&site.at("rootfs2")))]);
    assert!(site.image(&["verify"]).status.success());
    let digest = &web["manifest"]["rootfs"]["blob"]["digest"];
    let pack = site.packs().remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&pack, bytes).unwrap();

    let out = site.image(&["verify", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let damage = report["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{report}");
    assert_eq!((&damage[0]["digest"], &damage[0]["role"]), (digest, &Value::from("rootfs")));
    assert_eq!(damage[0]["images"], serde_json::json!(["db:1", "web:1"]));
    assert!(text(&site.image(&["verify"]).stdout).contains("hurting db:1, web:1"));
    assert!(site.image(&["verify", "safe:1"]).status.success());

    // Importing the same files again repairs it.
    site.imported("web", &[]);
    assert!(site.image(&["verify"]).status.success());
}

#[test]
fn a_wrong_name_brings_the_nearest() {
    let site = Site::new();
    site.imported("web", &[]);
    for command in ["show", "rm"] {
        let out = site.image(&[command, "wbe:1"]);
        assert!(text(&out.stderr).contains("did you mean web:1?"), "{}", text(&out.stderr));
    }
}
