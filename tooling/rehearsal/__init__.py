"""The workflows, run on this machine by act, with stand-ins for actions and for the stages' own work."""
