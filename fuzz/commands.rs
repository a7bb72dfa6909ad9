//! What iPXE would do by a script, for those who hold two scripts against each other.

/// A script with everything that came from outside blanked: by line the command, and each word that iPXE would
/// take for an operator, a variable, a comment or the end of the line.
pub fn commands(script: &str) -> Vec<Vec<String>> {
    let operator = |w: &&str| {
        matches!(*w, "&&" | "||" | ";") || w.contains("${") || w.starts_with('#') || w.contains('\r')
    };
    let of_line = |line: &str| {
        let mut words = line.split(' ');
        let command = words.next().unwrap_or_default();
        std::iter::once(command).chain(words.filter(operator)).map(str::to_owned).collect()
    };
    script.split('\n').map(of_line).collect()
}

/// The lines by which a script has iPXE load kernel and initramfs, in the words that iPXE reads: what is one more argument
/// to the kernel is one more here.
pub fn loads(script: &str) -> Vec<Vec<String>> {
    let lines = script.split('\n').filter(|line| line.starts_with("kernel ") || line.starts_with("initrd "));
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// The same with another word in the place of one: whatever is in it, it is one word.
pub fn loads_with(script: &str, one: &str, other: &str) -> Vec<Vec<String>> {
    let mut lines = loads(script);
    lines.iter_mut().flatten().filter(|word| *word == one).for_each(|word| other.clone_into(word));
    lines
}

/// Whether a console shows it as it is: the end of a line, or a printable character of ASCII.
pub fn is_plain(byte: u8) -> bool {
    byte == b'\n' || (b' '..=b'~').contains(&byte)
}
