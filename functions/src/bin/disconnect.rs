//! The `disconnect` function.

fn main() -> std::process::ExitCode {
    kschat_functions::runtime::disconnect()
}
