"""What a person sees; nothing is computed here."""
