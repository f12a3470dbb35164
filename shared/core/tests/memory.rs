//! The in-memory adapters keep the same contracts as the real ones.

mod registry {
    use kschat_core::{Partitions, memory::MemoryRegistry};

    kschat_core::registry_contract!(async { MemoryRegistry::new(Partitions::default()) });
}

mod broker {
    use kschat_core::{Partitions, memory::MemoryBroker};

    kschat_core::broker_contract!(async { MemoryBroker::new(Partitions::default()).0 });
    kschat_core::broker_contract!(@ async { MemoryBroker::new(Partitions::default()).0 }, an_empty_queue_is_removed,);
}

#[tokio::test]
async fn the_only_member_owns_everything_and_hears_pokes_and_acks() {
    use kschat_core::{Partitions, contract::ownership, memory::MemoryBroker};

    let (broker, mut member) = MemoryBroker::new(Partitions::default());
    let clause = ownership::the_only_member_owns_everything_and_hears_pokes_and_acks(
        &mut member,
        &broker,
        Partitions::default(),
    );
    clause.await.unwrap();
}
