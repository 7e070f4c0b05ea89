//! Holds the namespaces of a pod until it is killed. It has no children to reap: pods of the tests share no process namespace.

fn main() {
    loop {
        std::thread::park();
    }
}
