//! The model as the engine and the clock of a run.

use std::time::Duration;

use keepline_migrate::{
    Clock, Engine, EngineError, Interrupted, Names, Placed, Service, Surroundings, Task, TaskState,
};
use serde_json::{Value, json};

use super::Fake;

impl Clock for Fake {
    fn now(&self) -> Duration {
        self.0.borrow().now
    }

    fn sleep(&mut self, duration: Duration) -> Result<(), Interrupted> {
        if let Some(player) = &self.1 {
            player.wait();
        }
        let mut swarm = self.0.borrow_mut();
        swarm.sleeps += 1;
        if swarm.interrupt == Some(swarm.sleeps) {
            return Err(Interrupted);
        }
        swarm.pass(duration);
        Ok(())
    }
}

impl Engine for Fake {
    fn service(&mut self, name: &str) -> Result<Option<Service>, EngineError> {
        self.call(|swarm| Ok(swarm.service(name)))
    }

    fn create(&mut self, spec: &Value) -> Result<(), EngineError> {
        self.call(|swarm| {
            swarm.changing();
            swarm.add(spec)
        })
    }

    fn update(&mut self, id: &str, version: u64, spec: &Value) -> Result<(), EngineError> {
        self.call(|swarm| {
            swarm.changing();
            swarm.update(id, version, spec)
        })
    }

    fn remove(&mut self, id: &str) -> Result<(), EngineError> {
        self.call(|swarm| {
            swarm.changing();
            swarm.removed_at.get_or_insert(swarm.calls);
            swarm.remove(id);
            Ok(())
        })
    }

    fn tasks(&mut self, service: &str) -> Result<Vec<Task>, EngineError> {
        self.call(|swarm| {
            let own = swarm.tasks.iter().filter(|task| task.service_name == service);
            let now = swarm.now;
            Ok(own
                .map(|task| {
                    let (state, word) = task.state(now);
                    Task {
                        id: task.id.clone(),
                        service: task.service.clone(),
                        node: Some(format!("node{}", task.node)),
                        state,
                        word: word.to_owned(),
                        wanted: task.stop.is_none() && state != TaskState::Failed,
                        why: (state == TaskState::Failed).then(|| "unhealthy container".to_owned()),
                        addresses: task.addresses.clone(),
                    }
                })
                .collect())
        })
    }

    fn surroundings(&mut self) -> Result<Surroundings, EngineError> {
        self.call(|swarm| {
            let mut around = swarm.around.clone();
            around.services.extend(swarm.live().cloned());
            let there = swarm.tasks.iter().filter(|task| task.is_there(swarm.now));
            around.tasks.extend(there.map(|task| Placed {
                service: task.service.clone(),
                node: format!("node{}", task.node),
                addresses: task.addresses.clone(),
                ..Placed::default()
            }));
            for index in &swarm.down {
                around.nodes[*index].value["Status"]["State"] = json!("down");
            }
            Ok(around)
        })
    }

    fn names(
        &mut self,
        network: &str,
        name: &str,
        _carriers: &[&str],
    ) -> Result<Names, EngineError> {
        self.call(|swarm| {
            Ok(match swarm.not_here.contains(network) {
                true => Names::NotHere,
                false => Names::Asked(swarm.resolve(network, name).0),
            })
        })
    }
}
