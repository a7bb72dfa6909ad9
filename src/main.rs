//! The `pristine` binary. All of it is in the library.

fn main() -> std::process::ExitCode {
    pristine::cli::main()
}
