"""What bug threads are about, as recipes: the wrong sequence, and the right one where no built-in recipe has it."""
