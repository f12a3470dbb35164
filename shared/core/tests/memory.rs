//! The in-memory adapters pass the same contracts as the real ones.

mod registry {
    use kschat_core::{Partitions, memory::MemoryRegistry};

    kschat_core::registry_contract!(async { MemoryRegistry::new(Partitions::default()) });
}

mod broker {
    use kschat_core::{Partitions, memory::MemoryBroker};

    kschat_core::broker_contract!(async { MemoryBroker::new(Partitions::default()).0 });
    kschat_core::broker_contract!(@ async { MemoryBroker::new(Partitions::default()).0 }, empty_queue_is_removed, removing_a_queue_keeps_order,);
}

#[tokio::test]
async fn single_member_owns_all_and_receives_owner_messages() {
    use kschat_core::{Partitions, contract::ownership, memory::MemoryBroker};

    let (broker, mut member) = MemoryBroker::new(Partitions::default());
    let clause =
        ownership::single_member_owns_all_and_receives_owner_messages(&mut member, &broker, Partitions::default());
    clause.await.unwrap();
}
