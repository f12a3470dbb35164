//! The `connect` function.

fn main() -> std::process::ExitCode {
    kschat_functions::runtime::connect()
}
