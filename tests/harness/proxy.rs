//! A proxy between a process and a service, which fails without either side noticing.

use std::sync::{Arc, Mutex};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A TCP proxy to a service.
pub struct Proxy {
    port: u16,
    /// Tells each open connection to stop forwarding, with its sockets open.
    cuts: Arc<Mutex<watch::Sender<Cut>>>,
}

/// What is no longer forwarded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Nothing,
    Everything,
    /// The service's responses.
    Answers,
}

impl Proxy {
    /// Starts a proxy to that port of loopback.
    pub async fn start(service: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let cuts = Arc::new(Mutex::new(watch::channel(Cut::Nothing).0));
        let shared_cuts = Arc::clone(&cuts);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let cut = shared_cuts.lock().expect("the lock is not poisoned").subscribe();
                tokio::spawn(pass(near, service, cut));
            }
        });
        Self { port, cuts }
    }

    /// The proxy's address, to use instead of the service's own.
    #[must_use]
    pub fn in_front_of(&self, url: &str, service: u16) -> String {
        url.replace(&format!(":{service}"), &format!(":{}", self.port))
    }

    /// Stops forwarding on open connections; new ones are not affected.
    pub fn cut(&self) {
        self.tell(Cut::Everything);
    }

    /// Stops forwarding the service's responses on open connections; new ones are not affected.
    pub fn drop_responses(&self) {
        self.tell(Cut::Answers);
    }

    fn tell(&self, cut: Cut) {
        self.cuts.lock().expect("the lock is not poisoned").send_replace(cut);
    }
}

async fn pass(mut near: TcpStream, service: u16, mut cut: watch::Receiver<Cut>) {
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", service)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => return,
        Ok(()) = cut.changed() => {}
    }
    let kind = *cut.borrow();
    if kind == Cut::Answers {
        let _ = tokio::io::copy(&mut near, &mut far).await;
    }
    // Both sockets stay open, and are not read any more.
    std::future::pending::<()>().await;
}
