"""The freeze protocol of the 2017 thread as actors: who does what in which order, what fails, and what must hold."""
