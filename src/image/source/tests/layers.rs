//! Layers on each other, as the image-spec's layer.md says.
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Lays these on each other, without the documents of an image around them.
pub(super) fn stack(layers: &[Vec<u8>]) -> Result<Tree, SourceError> {
    let dir = TempDir::new();
    let mut tree = Tree::default();
    for (n, layer) in layers.iter().enumerate() {
        let path = dir.path().join(n.to_string());
        fs::write(&path, layer).unwrap();
        let backing = Backing::whole(File::open(path).unwrap()).unwrap();
        let label = format!("layer {}", n + 1);
        apply::layer(&mut tree, &backing, &label, &Options::default(), &mut Used::default())?;
    }
    Ok(tree)
}

#[track_caller]
fn stacked(layers: &[Archive], want: &[&str]) {
    let layers: Vec<Vec<u8>> = layers.iter().map(|l| l.clone().end()).collect();
    assert_eq!(names(&stack(&layers).unwrap()), want);
}

fn base() -> Archive {
    Archive::new()
        .dir("a")
        .file("a/one", "1")
        .file("a/two", "2")
        .dir("a/sub")
        .file("a/sub/x", "x")
        .file("b", "b")
}

#[test]
fn a_whiteout_takes_a_name_and_all_below_from_lower_layers() {
    stacked(
        &[base(), Archive::new().file("a/.wh.one", "")],
        &["a dir", "a/sub dir", "a/sub/x file x", "a/two file 2", "b file b"],
    );
    stacked(&[base(), Archive::new().file(".wh.a", "")], &["b file b"]);
    stacked(
        &[base(), Archive::new().file(".wh.nothing", "").file("no/.wh.thing", "")],
        &["a dir", "a/one file 1", "a/sub dir", "a/sub/x file x", "a/two file 2", "b file b"],
    );
}

#[test]
fn an_opaque_folder_hides_lower_layers_and_nothing_of_its_own_wherever_it_stands() {
    let want = ["a dir", "a/new file n", "b file b"];
    stacked(&[base(), Archive::new().dir("a").file("a/.wh..wh..opq", "").file("a/new", "n")], &want);
    stacked(&[base(), Archive::new().dir("a").file("a/new", "n").file("a/.wh..wh..opq", "")], &want);
}

#[test]
fn a_whiteout_and_a_new_entry_of_one_name_in_one_layer_leave_the_new_one() {
    let want = ["a dir", "a/new file n", "b file b"];
    stacked(&[base(), Archive::new().file(".wh.a", "").dir("a").file("a/new", "n")], &want);
    stacked(&[base(), Archive::new().dir("a").file("a/new", "n").file(".wh.a", "")], &want);
    stacked(
        &[Archive::new().file("f", "old"), Archive::new().file("f", "new").file(".wh.f", "")],
        &["f file new"],
    );
}

#[test]
fn a_file_takes_a_folders_place_and_the_other_way_round() {
    stacked(&[base(), Archive::new().file("a", "now a file")], &["a file now a file", "b file b"]);
    stacked(
        &[Archive::new().file("b", "b"), Archive::new().dir("b").file("b/c", "c")],
        &["b dir", "b/c file c"],
    );
    // A folder that is there already keeps what is in it, with the new owner and mode.
    let layers = [base().end(), Archive::new().raw(b'5', "a", "", b"").end()];
    assert_eq!(stack(&layers).unwrap().len(), 7);
    let layers = [Archive::new().file("b", "").end(), Archive::new().file("b/c", "").end()];
    let said = stack(&layers).unwrap_err().to_string();
    assert_eq!(said, "layer 2: entry `b/c`: `b/c` lies below `b`, which is a file");
}

#[test]
fn a_hard_link_may_lead_to_a_lower_layer() {
    stacked(
        &[base(), Archive::new().hardlink("c", "b")],
        &["a dir", "a/one file 1", "a/sub dir", "a/sub/x file x", "a/two file 2", "b file b", "c = b"],
    );
    // What one name gets, the other doesn't.
    stacked(
        &[
            Archive::new().file("a", "old"),
            Archive::new().hardlink("b", "a"),
            Archive::new().file("a", "new"),
        ],
        &["a file new", "b file old"],
    );
    let said = stack(&[base().end(), Archive::new().file(".wh.b", "").hardlink("c", "b").end()]).unwrap_err();
    assert!(said.to_string().starts_with("layer 2: entry `c`: it is a hard link to `b`, which is not"));
}

#[test]
fn links_of_lower_layers_are_gone_through_unless_the_layer_puts_a_folder_there() {
    let merged = Archive::new().dir("usr").dir("usr/lib").file("usr/lib/a", "a").symlink("lib", "usr/lib");
    stacked(
        &[merged.clone(), Archive::new().file("lib/b", "b").file("lib/.wh.a", "")],
        &["lib -> usr/lib", "usr dir", "usr/lib dir", "usr/lib/b file b"],
    );
    // The folder is new, so there is nothing of lower layers in it to hide.
    stacked(
        &[
            merged,
            Archive::new().dir("lib").file("lib/.wh..wh..opq", "").file("lib/.wh.a", "").file("lib/b", "b"),
        ],
        &["lib dir", "lib/b file b", "usr dir", "usr/lib dir", "usr/lib/a file a"],
    );
}

#[test]
fn whiteouts_of_nothing_are_refused_and_aufs_own_files_left_out() {
    for bad in ["a/.wh.", "a/.wh...", "a/.wh..", ".wh.a/b"] {
        let said = stack(&[base().end(), Archive::new().file(bad, "").end()]).unwrap_err().to_string();
        assert_eq!(said, format!("layer 2: entry `{bad}`: it is a whiteout for no name"));
    }
    stacked(
        &[
            Archive::new().file("a", ""),
            Archive::new().dir(".wh..wh.plnk").file(".wh..wh.plnk/12.34", "").file(".wh..wh.aufs", ""),
        ],
        &["a file "],
    );
    // Outside an image these are names as others are.
    assert_eq!(names(&opened(&Archive::new().file(".wh.a", "").end())), [".wh.a file "]);
}

/// A layer as sets: what it has, and what it hides.
#[derive(Clone, Debug, Default)]
struct Model {
    has: BTreeMap<String, Option<String>>,
    gone: BTreeSet<String>,
    opaque: BTreeSet<String>,
}

fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// What a name is once the layers up to the last lie on each other, by the words of the spec alone.
fn visible(layers: &[Model], path: &str) -> Option<Option<String>> {
    let (top, lower) = layers.split_last()?;
    if let Some(own) = top.has.get(path) {
        return Some(own.clone());
    }
    let hidden = top.gone.contains(path)
        || above(path).any(|dir| {
            top.gone.contains(dir) || top.opaque.contains(dir) || matches!(top.has.get(dir), Some(Some(_)))
        })
        || top.opaque.contains("");
    if hidden { None } else { visible(lower, path) }
}

fn paths() -> Vec<String> {
    let mut all = Vec::new();
    for a in ["a", "a-", "b"] {
        all.push(a.to_owned());
        for b in ["a", "b"] {
            all.push(format!("{a}/{b}"));
            all.push(format!("{a}/{b}/a"));
            all.push(format!("{a}/{b}/b"));
        }
    }
    all
}

fn model() -> impl Strategy<Value = (Model, Vec<(String, usize)>)> {
    let pick = || prop::sample::select(paths());
    let gone = prop::collection::btree_set(pick(), 0..3);
    let opaque = prop::collection::btree_set(prop_oneof![pick(), Just(String::new())], 0..2);
    let files = prop::collection::vec((pick(), prop::option::of("[a-z]{1,3}")), 0..6);
    let order = prop::collection::vec(any::<usize>(), 64);
    (files, gone, opaque, order).prop_map(|(files, gone, opaque, order)| {
        let mut model = Model { gone, opaque, ..Model::default() };
        for (path, what) in files {
            // One layer never has something below a file.
            let below_file = above(&path).any(|d| matches!(model.has.get(d), Some(Some(_))));
            let over_dir = what.is_some() && model.has.keys().any(|p| p.starts_with(&format!("{path}/")));
            if !below_file && !over_dir {
                above(&path).for_each(|d| drop(model.has.insert(d.to_owned(), None)));
                model.has.insert(path, what);
            }
        }
        // Folders that a marker stands in are there, as overlayfs has it.
        let mut marks: Vec<String> = model
            .gone
            .iter()
            .map(|p| match p.rsplit_once('/') {
                Some((dir, name)) => format!("{dir}/.wh.{name}"),
                None => format!(".wh.{p}"),
            })
            .collect();
        marks.extend(
            model
                .opaque
                .iter()
                .map(|d| if d.is_empty() { ".wh..wh..opq".into() } else { format!("{d}/.wh..wh..opq") }),
        );
        // Entries keep their order, markers may stand anywhere.
        let mut names: Vec<String> = model.has.keys().cloned().collect();
        for (mark, at) in marks.into_iter().zip(&order) {
            names.insert(at % (names.len() + 1), mark);
        }
        (model, names.into_iter().map(|n| (n, 0)).collect())
    })
}

fn pack(model: &Model, names: &[(String, usize)]) -> Vec<u8> {
    let pack = |a: Archive, (name, _): &(String, usize)| match model.has.get(name) {
        Some(None) => a.dir(name),
        Some(Some(text)) => a.file(name, text),
        None => a.file(name, ""),
    };
    names.iter().fold(Archive::new(), pack).end()
}

proptest! {
    #[test]
    fn layers_equal_the_model(layers in prop::collection::vec(model(), 1..5)) {
        let archives: Vec<Vec<u8>> = layers.iter().map(|(m, names)| pack(m, names)).collect();
        let models: Vec<Model> = layers.into_iter().map(|(m, _)| m).collect();
        let tree = stack(&archives).unwrap();
        for path in paths() {
            let want = visible(&models, &path);
            let got = tree.get(&path).map(|node| match &node.kind {
                Kind::Dir => None,
                _ => Some(String::from_utf8(tree.read_all(&path, 100).unwrap()).unwrap()),
            });
            prop_assert_eq!(got, want, "{}", path);
        }
    }
}
