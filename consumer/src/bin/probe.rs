//! Asks a health endpoint once: `probe 127.0.0.1:8080 /healthz/ready`.
//!
//! An image without a shell has nothing else that its orchestrator could run inside it.

use std::{
    env::args,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

/// How long connecting, writing and each read may take: less together than the orchestrator waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// How an answer begins that says yes.
const OK: &[u8] = b"HTTP/1.1 200";

fn main() -> ExitCode {
    let mut arguments = args().skip(1);
    let (Some(address), Some(path)) = (arguments.next().and_then(|text| text.parse().ok()), arguments.next()) else {
        return ExitCode::from(64);
    };
    match is_ok(address, &path) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn is_ok(address: SocketAddr, path: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut status = [0; OK.len()];
    stream.read_exact(&mut status)?;
    Ok(status == OK)
}
