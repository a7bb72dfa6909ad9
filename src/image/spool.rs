//! Temporary files without a name: nobody else finds them, and a kill leaves nothing.

use crate::store::durable;
use std::{fs::File, io, path::Path};

/// Makes one in `dir`, to write and read.
pub fn file(dir: &Path) -> io::Result<File> {
    let path = durable::tmp_name(dir);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
