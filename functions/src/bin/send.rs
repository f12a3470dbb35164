//! The `send` function.

fn main() -> std::process::ExitCode {
    kschat_functions::runtime::send()
}
