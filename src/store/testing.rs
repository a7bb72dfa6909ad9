//! A folder for a unit test, removed when dropped.

use std::path::{Path, PathBuf};

pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        let dir = super::durable::tmp_name(&std::env::temp_dir());
        #[allow(clippy::expect_used)]
        std::fs::create_dir(&dir).expect("make a folder for the test");
        TempDir(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
