//! What the fuzz targets promise, for the inputs that are kept in `fuzz/corpus`: the seeds, and whatever once broke
//! a promise.

#[path = "../../fuzz/targets.rs"]
pub mod targets;

use std::{fs, path::Path};

#[test]
fn inputs_of_the_fuzz_targets_keep_their_promises() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::ALL {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            println!("{}", path.display());
            target(&input);
            // Cut anywhere, it keeps them as well.
            for len in (0..input.len()).step_by(1 + input.len() / 64) {
                target(&input[..len]);
            }
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no inputs");
    }
}
