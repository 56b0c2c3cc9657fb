"""What files hold, without torch: folders of images listed, looked at once and remembered, and decoded."""
