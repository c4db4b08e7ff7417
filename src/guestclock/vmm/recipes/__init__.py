"""The recipes that come along, one file each; `guestclock.vmm.recipe.load` loads them."""
