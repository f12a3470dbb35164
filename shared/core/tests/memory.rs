//! The in-memory adapters keep the same contracts as the real ones.

mod registry {
    use kschat_core::{Partitions, memory::MemoryRegistry};

    kschat_core::registry_contract!(async { MemoryRegistry::new(Partitions::default()) });
}

mod broker {
    use kschat_core::{Partitions, memory::MemoryBroker};

    kschat_core::broker_contract!(async { MemoryBroker::new(Partitions::default()).0 });
}
