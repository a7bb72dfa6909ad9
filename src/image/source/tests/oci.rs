//! Images in OCI layout and as `docker save` writes them, in order and out of order.
use super::*;
use crate::model::Digest;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The files of a layout.
#[derive(Clone, Default)]
struct Layout(Vec<(String, Vec<u8>)>);

impl Layout {
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.0.push((format!("blobs/sha256/{digest}"), bytes.to_vec()));
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }

    fn json(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    fn image(&mut self, arch: &str, layers: &[Vec<u8>]) -> Value {
        let ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", Digest::of(l))).collect();
        let stored: Vec<Value> = layers
            .iter()
            .map(|l| {
                let packed = zstd::encode_all(l.as_slice(), 1).unwrap();
                self.blob(&format!("{LAYER}+zstd"), &packed)
            })
            .collect();
        self.image_of(arch, stored, &ids)
    }

    fn image_of(&mut self, arch: &str, layers: Vec<Value>, ids: &[String]) -> Value {
        let config = json!({
            "os": "linux", "architecture": arch, "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["A=b"], "Entrypoint": null, "Cmd": ["sh"], "Labels": {"version": "1"}},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = self.json(CONFIG, &config);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut descriptor = self.json(MANIFEST, &manifest);
        descriptor["platform"] = json!({"os": "linux", "architecture": arch});
        descriptor
    }

    fn index(&mut self, manifests: &[Value]) {
        self.set("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes());
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.set("index.json", index.to_string().as_bytes());
    }

    fn set(&mut self, path: &str, bytes: &[u8]) {
        self.0.retain(|(p, _)| p != path);
        self.0.push((path.to_owned(), bytes.to_vec()));
    }

    /// Changes a blob's bytes, and not its name.
    fn tamper(&mut self, descriptor: &Value, change: impl Fn(&mut Vec<u8>)) {
        let hex = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        let blob = self.0.iter_mut().find(|(path, _)| path.ends_with(&hex)).unwrap();
        change(&mut blob.1);
    }

    fn open(&self, options: &Options) -> Result<Tree, SourceError> {
        let files: Vec<(&str, &[u8])> = self.0.iter().map(|(p, b)| (p.as_str(), b.as_slice())).collect();
        let (_dir, root) = folder_of(&files);
        open(&root, options, &Silent)
    }

    fn packed(&self) -> Vec<u8> {
        self.0.iter().fold(Archive::new(), |a, (p, b)| a.raw(b'0', p, "", b)).end()
    }

    #[track_caller]
    fn refused(&self, want: &str) {
        let options = amd64();
        let said = self.open(&options).unwrap_err().to_string();
        assert!(said.contains(want), "{said:?} lacks {want:?}");
        let said = open_bytes(&self.packed(), &options).unwrap_err().to_string();
        assert!(said.contains(want), "archive: {said:?} lacks {want:?}");
    }
}

fn amd64() -> Options {
    Options { platform: "linux/amd64".parse().unwrap(), ..Options::default() }
}

fn two_layers() -> Vec<Vec<u8>> {
    vec![
        Archive::new().file("etc/os-release", "ID=one").file("etc/old", "").end(),
        Archive::new().file("etc/os-release", "ID=two").file("etc/.wh.old", "").end(),
    ]
}

#[test]
fn an_image_is_read_from_a_folder_and_from_an_archive_alike() {
    let mut layout = Layout::default();
    let image = layout.image("amd64", &two_layers());
    layout.index(std::slice::from_ref(&image));
    let tree = layout.open(&amd64()).unwrap();
    assert_eq!(names(&tree), ["etc dir", "etc/os-release file ID=two"]);
    let facts = tree.facts();
    assert_eq!(facts.kind, SourceKind::OciLayout);
    assert_eq!(format!("sha256:{}", facts.image.unwrap()), image["digest"].as_str().unwrap());
    assert_eq!((facts.layers.len(), facts.platform.as_deref()), (2, Some("linux/amd64")));
    let config = facts.config.as_ref().unwrap();
    assert_eq!(
        (config.env.as_slice(), config.cmd.as_slice()),
        (&["A=b".to_owned()][..], &["sh".to_owned()][..])
    );
    assert_eq!(config.labels.get("version").unwrap(), "1");

    let packed = zstd::encode_all(layout.packed().as_slice(), 1).unwrap();
    for bytes in [layout.packed(), packed] {
        let again = open_bytes(&bytes, &amd64()).unwrap();
        assert_eq!(again.facts().kind, SourceKind::OciArchive);
        assert!(written(&again, None) == written(&tree, None));
    }
}

#[test]
fn the_platform_is_chosen_through_nested_indexes_and_a_missing_one_lists_what_is_there() {
    let mut layout = Layout::default();
    let arm = layout.image("arm64", &[Archive::new().file("arm", "").end()]);
    let amd = layout.image("amd64", &[Archive::new().file("amd", "").end()]);
    let mut note = layout.image("amd64", &[Archive::new().file("note", "").end()]);
    note["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    note["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let inner = layout.json(INDEX, &json!({"schemaVersion": 2, "manifests": [arm, amd, note]}));
    layout.index(&[inner]);
    let read =
        |platform: &str| layout.open(&Options { platform: platform.parse().unwrap(), ..Options::default() });
    assert_eq!(names(&read("linux/amd64").unwrap()), ["amd file "]);
    assert_eq!(names(&read("linux/arm64").unwrap()), ["arm file "]);
    assert_eq!(names(&read("linux/aarch64/v8").unwrap()), ["arm file "]);
    let said = read("linux/riscv64").unwrap_err().to_string();
    assert!(
        said.contains(
            "no image for linux/riscv64; it has: linux/amd64, linux/arm64. Choose one with --platform"
        ),
        "{said}"
    );
}

#[test]
fn several_images_are_told_apart_by_name() {
    let mut layout = Layout::default();
    let mut all = Vec::new();
    for name in ["one", "two"] {
        let mut image = layout.image("amd64", &[Archive::new().file(name, "").end()]);
        image["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        all.push(image);
    }
    layout.index(&all);
    layout.refused("holds several images: one (linux/amd64, sha256:");
    let named = |name: &str| layout.open(&Options { reference: Some(name.into()), ..amd64() });
    assert_eq!(names(&named("two").unwrap()), ["two file "]);
    let said = named("three").unwrap_err().to_string();
    assert!(said.contains("no image called `three`; it has: one, two"), "{said}");
}

#[test]
fn bytes_that_arent_what_was_promised_are_refused() {
    let mut layout = Layout::default();
    let image = layout.image("amd64", &two_layers());
    layout.index(std::slice::from_ref(&image));

    let mut lies = layout.clone();
    lies.tamper(&image, |bytes| bytes[5] ^= 1);
    lies.refused("manifest");
    let mut lies = layout.clone();
    lies.tamper(&image, |bytes| bytes.push(b' '));
    lies.refused("were promised");
    let mut gone = layout.clone();
    gone.0.retain(|(p, _)| !image["digest"].as_str().unwrap().ends_with(p.rsplit('/').next().unwrap()));
    gone.refused("is missing: copy the image again");

    // A layer, its size kept: by its digest; repacked: by its size.
    let manifest: Value = serde_json::from_slice(
        &layout
            .0
            .iter()
            .find(|(p, _)| image["digest"].as_str().unwrap().ends_with(p.rsplit('/').next().unwrap()))
            .unwrap()
            .1,
    )
    .unwrap();
    let layer = &manifest["layers"][1];
    let mut lies = layout.clone();
    lies.tamper(layer, |bytes| {
        let mut other = zstd::encode_all(Archive::new().file("evil", "").end().as_slice(), 1).unwrap();
        // A frame to skip makes up the length.
        let pad = bytes.len() - other.len() - 8;
        other.extend([0x50, 0x2a, 0x4d, 0x18]);
        other.extend((pad as u32).to_le_bytes());
        other.resize(bytes.len(), 0);
        *bytes = other;
    });
    lies.refused("has other bytes");
    let mut lies = layout.clone();
    lies.tamper(layer, |bytes| bytes.truncate(20));
    lies.refused("layer 2 (sha256:");
    let mut gone = layout.clone();
    gone.0.retain(|(p, _)| !layer["digest"].as_str().unwrap().ends_with(p.rsplit('/').next().unwrap()));
    gone.refused("layer 2 (sha256:");
}

#[test]
fn a_configuration_that_doesnt_fit_its_layers_is_refused() {
    let layers = two_layers();
    let ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", Digest::of(l))).collect();
    let with = |media: &str, ids: &[String]| {
        let mut layout = Layout::default();
        let stored = layers.iter().map(|l| layout.blob(media, l)).collect();
        let image = layout.image_of("amd64", stored, ids);
        layout.index(&[image]);
        layout
    };
    assert!(with(LAYER, &ids).open(&amd64()).is_ok());
    with(LAYER, &ids[..1]).refused("the manifest has 2 layers, and its configuration names 1");
    with(LAYER, &[ids[1].clone(), ids[0].clone()]).refused("layer 1 unpacks to sha256:");
    with(LAYER, &["md5:abc".into(), ids[0].clone()]).refused("only sha256 digests are read here");
    with("application/vnd.oci.image.layer.v1.squashfs", &ids)
        .refused("a layer has the unknown media type `application/vnd.oci.image.layer.v1.squashfs`");
    with("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", &ids).refused("layer 1 is encrypted");

    let mut lies = Layout::default();
    let mut image = lies.image("arm64", &layers);
    image["platform"]["architecture"] = json!("amd64");
    lies.index(&[image]);
    lies.refused("is for linux/amd64, and its configuration says linux/arm64");
}

#[test]
fn documents_that_arent_what_they_should_be_are_refused() {
    let mut layout = Layout::default();
    let image = layout.image("amd64", &two_layers());
    layout.index(std::slice::from_ref(&image));
    let with = |change: &dyn Fn(&mut Layout)| {
        let mut layout = layout.clone();
        change(&mut layout);
        layout
    };
    with(&|l| l.set("index.json", b"{")).refused("index.json can't be read");
    with(&|l| l.set("index.json", br#"{"schemaVersion":1,"manifests":[]}"#))
        .refused("the index is of version 1");
    with(&|l| l.index(&[])).refused("no image for linux/amd64; it has: nothing");
    with(&|l| l.set("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#))
        .refused("the image layout is of version 2.0.0");
    with(&|l| l.index(&[json!({"mediaType": "text/plain", "digest": "sha256:0", "size": 1})]))
        .refused("an entry of the index has the unknown media type `text/plain`");
    with(&|l| l.index(&[json!({"mediaType": MANIFEST, "digest": "sha256:../../x", "size": 1, "platform": {"os":"linux","architecture":"amd64"}})]))
        .refused("manifest is named by `sha256:../../x`");
    with(&|l| l.index(&[json!({"mediaType": MANIFEST, "digest": image["digest"], "size": 1u64 << 40, "platform": image["platform"]})]))
        .refused("manifest is over the bound");
    // An index that holds itself can't be made; one that is nested without end can.
    with(&|l| {
        let mut inner = image.clone();
        for _ in 0..10 {
            inner = l.json(INDEX, &json!({"schemaVersion": 2, "manifests": [inner]}));
        }
        l.index(&[inner]);
    })
    .refused("the depth of indexes in indexes is over the bound");
    let mut options = amd64();
    options.bounds.layers = 1;
    let said = layout.open(&options).unwrap_err().to_string();
    assert!(said.contains("the number of layers is over the bound of 1"), "{said}");
}

/// The files of an archive.
type Files = Vec<(String, Vec<u8>)>;

fn saved(change: impl Fn(&mut Value, &mut Files)) -> Vec<u8> {
    let layers = two_layers();
    let ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", Digest::of(l))).collect();
    let config =
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}})
            .to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()));
    let mut manifest =
        json!([{"Config": name, "RepoTags": ["web:1"], "Layers": ["l1/layer.tar", "l2/layer.tar"]}]);
    let mut files = vec![
        ("l1/layer.tar".to_owned(), layers[0].clone()),
        ("l2/layer.tar".to_owned(), layers[1].clone()),
        (name, config.into_bytes()),
    ];
    change(&mut manifest, &mut files);
    files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
    files.iter().fold(Archive::new(), |a, (p, b)| a.raw(b'0', p, "", b)).end()
}

#[test]
fn what_docker_save_writes_is_read_and_checked() {
    let tree = open_bytes(&saved(|_, _| ()), &amd64()).unwrap();
    assert_eq!(names(&tree), ["etc dir", "etc/os-release file ID=two"]);
    assert_eq!(tree.facts().kind, SourceKind::DockerArchive);
    assert_eq!(tree.facts().reference.as_deref(), Some("web:1"));

    let said = |change: fn(&mut Value, &mut Files)| refusal_with(&saved(change), &amd64());
    assert!(said(|_, f| f[0].1[512] ^= 1).contains("layer 1 unpacks to"), "lying layer");
    assert!(
        said(|_, f| f[2].1.push(b' ')).contains("configuration sha256:")
            || said(|_, f| f[2].1.push(b' ')).contains("has other bytes")
    );
    assert!(said(|_, f| drop(f.remove(1))).contains("layer 2 (l2/layer.tar) is missing"));
    assert!(said(|m, _| m[0]["Layers"] = json!(["l1/layer.tar"])).contains("they don't belong together"));
    assert!(said(|m, _| m[0]["Layers"][0] = json!("../../etc/passwd")).contains("is missing"));
    let two = said(|m, _| {
        let mut other = m[0].clone();
        other["RepoTags"] = json!(["web:2"]);
        m.as_array_mut().unwrap().push(other);
    });
    assert!(two.contains("holds several images: web:1, web:2"), "{two}");
    // A root that happens to have such a file is a root.
    let root = Archive::new().file("manifest.json", "[]").file("etc/x", "").end();
    assert_eq!(opened(&root).facts().kind, SourceKind::Tar);
}
